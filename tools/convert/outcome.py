"""What came of a conversion: counted sample by sample, then told on its card."""

from collections import Counter

from loaders.errors import FastvitError
from tools.convert.job import Job
from tools.convert.options import ConversionOptions
from tools.listings.card import Card
from tools.listings.record_list import RecordLine, SkippedLine
from tools.sources.sample import left_out_of

__all__ = ["Outcome", "describe"]


class Outcome:
    """What came of the samples so far, for the card."""

    def __init__(self) -> None:
        self.num_samples = 0
        """Skipped ones included."""
        self.num_images = 0
        self.formats: Counter[str] = Counter()
        self.treatments: Counter[str] = Counter()
        self.skipped: list[dict[str, str]] = []

    def require_images(self, options: ConversionOptions) -> None:
        """See that anything came of the samples.

        Raises:
            FastvitError: Nothing did.
        """
        if self.num_images:
            return
        first = self.skipped[0]
        where, remedy = (f" of part {options.part}", ", or make fewer parts") if options.part else ("", "")
        raise FastvitError(
            f"{options.source}: none of {self.num_samples:,} images{where} could be converted, so nothing is written; "
            f"the first, {first['name']}: {first['reason']}; fix them or name another --source{remedy}"
        )

    def add(self, line: RecordLine | SkippedLine) -> None:
        """Count one more sample."""
        self.num_samples += 1
        if isinstance(line, SkippedLine):
            self.skipped.append({"name": line.name, "reason": line.reason})
            return
        self.num_images += 1
        self.formats[line.format] += 1
        self.treatments[line.treatment] += 1


def describe(
    options: ConversionOptions, job: Job, outcome: Outcome, *, num_bytes: int, seconds: float, num_resumed: int
) -> Card:
    """The card of what was converted.

    Args:
        options: What was asked for.
        job: What was to be converted.
        outcome: What came of it.
        num_bytes: The size of all files.
        seconds: How long this run took.
        num_resumed: How many samples had been converted before it.
    """
    # A manifest names its images one by one: with it, nothing else was asked for.
    left_out = {} if options.manifest else left_out_of(job.source)
    return Card(
        dataset=options.dataset,
        source=str(options.source),
        split=job.identity["split"],
        num_images=outcome.num_images,
        num_classes=len(job.source.class_names),
        class_names=tuple(job.source.class_names),
        num_bytes=num_bytes,
        formats=dict(sorted(outcome.formats.items())),
        treatments=dict(sorted(outcome.treatments.items())),
        skipped=outcome.skipped,
        seconds=round(seconds, 3),
        images_per_second=round((outcome.num_samples - num_resumed) / seconds, 1),
        num_planned=job.num_planned,
        part=options.part,
        job=job.identity,
        left_out=left_out,
    )
