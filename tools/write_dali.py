"""Convert a data set of images into shards that DALI and WebDataset read: ``python tools/write_dali.py --help``."""

import glob
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import tyro

from loaders.atomic_file import atomic_file
from loaders.command import run_command
from loaders.companions import record_list_path
from loaders.errors import FastvitError
from tools.convert.claim import INTERRUPTED, claim, locked
from tools.convert.encode_image import ImageEncoder, Mode
from tools.convert.encoding import Encoded, encode_all
from tools.convert.job import Job, plan
from tools.convert.options import ConversionOptions, part_path
from tools.convert.outcome import Outcome, describe
from tools.convert.progress import Advance, conversion_progress
from tools.listings.card import Card
from tools.listings.record_list import RecordLine, SkippedLine, format_line, read_record_list
from tools.shards.format import ImageExtension, ShardFormat
from tools.shards.writer import SHARD_FORMATS, ShardWriter

__all__ = ["WriteDali", "main", "write_dali"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteDali(ConversionOptions):
    """Convert a data set of images into shards, each with DALI's index next to it.

    They are named OUT-000000.tar and so on. Next to them are a card that describes them (OUT.json) and a list of each
    shard's records with their checksums (OUT-000000.tar.records.tsv), which tools/verify.py compares it with.
    """

    out: Path
    """Folder and name of the shards without number and extension, such as shards/train."""

    format: Literal["tar", "tfrecord"] = "tar"
    """WebDataset's tar files, or TFRecord."""

    mode: Literal["keep", "restart", "reencode", "png"] | None = None
    """`reencode` decodes every image, makes it no larger than max_side, and stores a JPEG. `keep` stores JPEGs byte
    for byte, `restart` rewrites them without loss, with restart markers. `png` stores every image without loss. By
    default `reencode`, and for cifar10, whose images are pixels, `png`."""

    shard_images: int = 1000
    """Images of the source in a shard."""

    def __post_init__(self) -> None:
        ConversionOptions.__post_init__(self)  # slots make another class, which super() would not know
        if self.dataset == "cifar10" and self.mode in ("keep", "restart"):
            raise FastvitError(f"mode {self.mode} is for JPEG files, but cifar10 has none: use png or reencode")
        if self.shard_images < 1:
            raise FastvitError(f"shard_images must be positive, got {self.shard_images}")

    @property
    def storage_mode(self) -> Mode:
        """The mode, with the data set's default for none."""
        return self.mode or ("png" if self.dataset == "cifar10" else "reencode")


def write_dali(config: WriteDali) -> tuple[Path, Card]:
    """Convert a data set: where its card lies, and the card.

    Raises:
        FastvitError: The source is not as it should be, an image cannot be converted (the message names it), or a shard
            exists or cannot be written. Whole shards stay for `resume`.
        OSError: The source cannot be read, or a file not written.
        ImportError: The source or the format needs a library that is not installed.
    """
    encoder = config.encoder(config.storage_mode)
    settings = {**asdict(encoder), "format": config.format, "shard_images": config.shard_images}
    job = plan(config, group_size=config.shard_images, settings=settings)
    card_file = part_path(config.out.with_name(config.out.name + ".json"), job.part)
    if card_file.exists() and not config.overwrite:
        raise FastvitError(f"{card_file}: exists already; remove it and its shards, name others, or pass --overwrite")
    job_file = card_file.with_suffix(".partial.json")
    with locked(job_file):
        shards = _claimed_shards(config, job, job_file)
        card = _convert(config, job, encoder, shards)
        card.write(card_file)
        job_file.unlink()
    return card_file, card


def _claimed_shards(config: WriteDali, job: Job, job_file: Path) -> list[Path]:
    """The shards to write, of which none or the first ones are there."""
    shards = _shard_paths(config, job)
    earlier = _earlier_shards(config, shards, is_whole=job.part is None)
    if earlier and not job_file.exists() and not config.overwrite:
        raise FastvitError(f"{earlier[0]}: exists already; remove it, name other shards, or pass --overwrite")

    def clear() -> None:
        for shard in earlier:
            for path in (shard, shard.with_suffix(".idx"), record_list_path(shard)):
                path.unlink(missing_ok=True)

    claim(job_file, job, resume=config.resume, overwrite=config.overwrite, clear=clear)
    beginnings = tuple(f".{shard.stem}." for shard in shards)
    for unfinished in config.out.parent.glob(f".{glob.escape(config.out.name)}-*.tmp"):
        if unfinished.name.startswith(beginnings):  # by a process that was killed; others are at other parts
            unfinished.unlink(missing_ok=True)
    return shards


def _convert(config: WriteDali, job: Job, encoder: ImageEncoder, shards: Sequence[Path]) -> Card:
    """Write the shards that are missing."""
    shard_format = SHARD_FORMATS[config.format](len(job.source.class_names))
    outcome = Outcome()
    num_shards_done = _recall(shards, outcome)
    started, num_resumed = time.perf_counter(), outcome.num_samples
    samples = job.samples(num_resumed)
    with conversion_progress(f"{config.out.name}-*.{config.format}", len(job) - num_resumed) as advance:
        encoded = encode_all(samples, encoder, num_workers=config.num_workers, on_error=config.on_error)
        for number, shard in enumerate(shards[num_shards_done:], start=num_shards_done):
            some = islice(encoded, config.shard_images)
            first = job.first + number * config.shard_images
            _write_shard(shard, shard_format, some, outcome, first=first, advance=advance)
    return describe(
        config,
        job,
        outcome,
        num_bytes=sum(shard.stat().st_size for shard in shards if shard.exists()),
        seconds=time.perf_counter() - started,
        num_resumed=num_resumed,
    )


def _shard_paths(config: WriteDali, job: Job) -> list[Path]:
    """The shards of the job; their numbers count on from part to part."""
    first, last = job.first // config.shard_images, -(-(job.first + len(job)) // config.shard_images)
    return [config.out.with_name(f"{config.out.name}-{number:06}.{config.format}") for number in range(first, last)]


def _earlier_shards(config: WriteDali, shards: Sequence[Path], *, is_whole: bool) -> list[Path]:
    """What an earlier conversion left under these names, which must not mix with the new shards."""
    number = "[0-9]" * 6
    found = config.out.parent.glob(f"{glob.escape(config.out.name)}-{number}.{config.format}")
    return [shard for shard in found if is_whole or shard in set(shards)]


def _recall(shards: Sequence[Path], outcome: Outcome) -> int:
    """Count the shards that are done, and what is in them: a shard that has its name is whole, and its list with it."""
    for number, shard in enumerate(shards):
        list_path = record_list_path(shard)
        lines = list(read_record_list(list_path)) if list_path.exists() else []
        if not lines or not (shard.exists() or _are_skipped(lines)):
            return number
        for line in lines:
            outcome.add(line)
    return len(shards)


def _are_skipped(lines: Iterable[RecordLine | SkippedLine]) -> bool:
    """Whether nothing came of these samples, so that there is no shard: DALI cannot read an empty one."""
    return all(isinstance(line, SkippedLine) for line in lines)


def _write_shard(
    path: Path, shard_format: ShardFormat, encoded: Iterator[Encoded], outcome: Outcome, *, first: int, advance: Advance
) -> None:
    """Write a shard, its index and its record list; samples are numbered from `first` on. The shard appears last."""
    beginning = _up_to_first_record(encoded)
    is_empty = _are_skipped(line for line, _ in beginning)
    with (
        nullcontext() if is_empty else ShardWriter(path, shard_format) as shard,
        atomic_file(record_list_path(path)) as lines,
    ):
        for key, (line, data) in enumerate(chain(beginning, encoded), start=first):
            if isinstance(line, RecordLine) and shard is not None:
                extension: ImageExtension = "png" if line.format == "png" else "jpg"
                shard.append(f"{key:08}", data, extension, line.label)
            lines.write(format_line(line))
            outcome.add(line)
            advance(1, len(data))


def _up_to_first_record(encoded: Iterator[Encoded]) -> list[Encoded]:
    """Read ahead until it is known whether there will be a shard, without holding the shard in memory."""
    beginning = []
    for one in encoded:
        beginning.append(one)
        if isinstance(one.line, RecordLine):
            break
    return beginning


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""

    def work() -> None:
        path, card = write_dali(tyro.cli(WriteDali, args=argv))
        print(f"{path}\n{card}")

    return run_command(work, interrupted=INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
