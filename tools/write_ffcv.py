"""Convert a data set of images into FFCV's ``.beton`` format: ``python tools/write_ffcv.py --help``."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from loaders.beton import DEFAULT_PAGE_SIZE, page_size_fault
from loaders.command import run_command
from loaders.errors import FastvitError
from tools.convert.claim import INTERRUPTED, locked
from tools.convert.encode_image import ImageEncoder, Mode
from tools.convert.encoding import encode_all
from tools.convert.job import Job, plan
from tools.convert.options import ConversionOptions, part_path
from tools.convert.outcome import describe
from tools.convert.partial_beton import PartialBeton, partial_beton, partial_paths
from tools.convert.progress import conversion_progress
from tools.listings.card import Card

__all__ = ["WriteFfcv", "main", "write_ffcv"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteFfcv(ConversionOptions):
    """Convert a data set of images into FFCV's .beton format.

    Next to it are a card that describes the file (OUT.json) and a list of its records with their checksums
    (OUT.records.tsv), which tools/verify.py compares it with.
    """

    out: Path
    """The file to write."""

    mode: Literal["keep", "restart", "reencode", "raw", "mixed"] | None = None
    """`reencode` decodes every image, makes it no larger than max_side, and stores a JPEG with restart markers: right
    for training at 224, since photos of 500 px lose next to nothing that a crop shows, take half the space and load
    twice as fast. `restart` gives JPEGs restart markers, which let loaders skip what a crop does not need: no pixel
    changes, but EXIF and other metadata are left out. `keep` stores them byte for byte. `raw` stores pixels, `mixed`
    some images raw and the others re-encoded. By default `reencode`, and for cifar10, whose images are pixels,
    `raw`."""

    raw_fraction: float = 0.5
    """The share of images that `mixed` stores raw."""

    page_size: int = DEFAULT_PAGE_SIZE
    """Bytes of FFCV's pages: a power of two from 2 MiB up; no image can be larger."""

    def __post_init__(self) -> None:
        ConversionOptions.__post_init__(self)  # slots make another class, which super() would not know
        if self.dataset == "cifar10" and self.mode in ("keep", "restart"):
            raise FastvitError(f"mode {self.mode} is for JPEG files, but cifar10 has none: use raw, mixed or reencode")
        if not 0 <= self.raw_fraction <= 1:
            raise FastvitError(f"raw_fraction must lie in [0, 1], got {self.raw_fraction}")
        if fault := page_size_fault(self.page_size):
            raise FastvitError(fault)

    @property
    def storage_mode(self) -> Mode:
        """The mode, with the data set's default for none."""
        return self.mode or ("raw" if self.dataset == "cifar10" else "reencode")


def write_ffcv(config: WriteFfcv) -> tuple[Path, Card]:
    """Convert a data set: the file that was written, and its card.

    Raises:
        FastvitError: The source is not as it should be, an image cannot be converted (the message names it), or the
            file exists or cannot be written. What was converted so far stays beside it for `resume`.
        OSError: The source cannot be read, or a file not written.
        ImportError: The source needs a library that is not installed.
    """
    job = plan(config, settings={**asdict(_encoder(config)), "page_size": config.page_size})
    out = part_path(config.out, job.part)
    if out.exists() and not config.overwrite:
        raise FastvitError(f"{out}: exists already; remove it, name another file, or pass --overwrite")
    with locked(partial_paths(out)[-1]):
        with partial_beton(
            out, job, page_size=config.page_size, resume=config.resume, overwrite=config.overwrite
        ) as partial:
            card = _convert(config, job, partial)
        partial.publish(card)
    return out, card


def _convert(config: WriteFfcv, job: Job, partial: PartialBeton) -> Card:
    """Write what is missing of the file."""
    started, num_resumed = time.perf_counter(), partial.outcome.num_samples
    encoder, samples = _encoder(config), job.samples(num_resumed)
    with conversion_progress(config.out.name, len(job) - num_resumed) as advance:
        for line, data in encode_all(samples, encoder, num_workers=config.num_workers, on_error=config.on_error):
            partial.append(line, data)
            advance(1, len(data))
    partial.finish()
    return describe(
        config,
        job,
        partial.outcome,
        num_bytes=partial.data_path.stat().st_size,
        seconds=time.perf_counter() - started,
        num_resumed=num_resumed,
    )


def _encoder(config: WriteFfcv) -> ImageEncoder:
    return config.encoder(config.storage_mode, raw_fraction=config.raw_fraction)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""

    def work() -> None:
        path, card = write_ffcv(tyro.cli(WriteFfcv, args=argv))
        print(f"{path}\n{card}")

    return run_command(work, interrupted=INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
