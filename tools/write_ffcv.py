"""Convert a data set of images into FFCV's ``.beton`` format: ``python tools/write_ffcv.py --help``."""

import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import tyro

from loaders.beton import (
    DEFAULT_PAGE_SIZE,
    BetonError,
    BetonStream,
    EncodedImage,
    FieldKind,
    ImageMode,
    page_size_fault,
)
from tools.convert.claim import claim, locked
from tools.convert.encode_image import ImageEncoder, Mode
from tools.convert.job import (
    ConversionOptions,
    Job,
    Outcome,
    describe,
    encode_all,
    part_path,
    plan,
    run_command_line,
)
from tools.convert.progress import conversion_progress
from tools.listings.card import Card, card_path
from tools.listings.record_list import RecordLine, SkippedLine, format_line, read_record_list, record_list_path

FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
# The disk writes while the next images are encoded, instead of all of them at the end.
_SYNC_BYTES = 1 << 27
_MODES = {"jpg": ImageMode.JPG, "raw": ImageMode.RAW}


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteFfcv(ConversionOptions):
    """Convert a data set of images into FFCV's .beton format.

    A card that describes the file goes beside it (OUT.json), and a list of its records with their checksums
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
        super(WriteFfcv, self).__post_init__()
        if self.dataset == "cifar10" and self.mode in ("keep", "restart"):
            raise ValueError(f"mode {self.mode} is for JPEG files, but cifar10 has none: use raw, mixed or reencode")
        if not 0 <= self.raw_fraction <= 1:
            raise ValueError(f"raw_fraction must lie in [0, 1], got {self.raw_fraction}")
        if fault := page_size_fault(self.page_size):
            raise ValueError(fault)

    @property
    def storage_mode(self) -> Mode:
        """The mode, with the data set's default for none."""
        return self.mode or ("raw" if self.dataset == "cifar10" else "reencode")


def write_ffcv(config: WriteFfcv) -> tuple[Path, Card]:
    """Convert a data set: the file that was written, and its card.

    Raises:
        ValueError: The source is not as it should be, an image cannot be converted (the message names it), or the
            file exists or cannot be written. What was converted so far stays beside it for `resume`.
        OSError: The source cannot be read, or a file not written.
        ImportError: The source needs a library that is not installed.
    """
    job = plan(config, settings={**asdict(_encoder(config)), "page_size": config.page_size})
    out = part_path(config.out, job.part)
    if out.exists() and not config.overwrite:
        raise ValueError(f"{out}: exists already; remove it, name another file, or pass --overwrite")
    with locked(partial_paths(out)[-1]):
        with _partial_beton(out, job, config) as partial:
            card = _convert(config, job, partial)
        partial.publish(card)
    return out, card


def _convert(config: WriteFfcv, job: Job, partial: "PartialBeton") -> Card:
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


class PartialBeton:
    """A `.beton` file in the making and the list of its records, from which it can be taken up again."""

    def __init__(self, out: Path, job: Job, data: BinaryIO, lines: BinaryIO, *, page_size: int) -> None:
        self._out, self._data, self._lines = out, data, lines
        self.data_path, self.list_path, self.job_path = partial_paths(out)
        num_samples = len(job)
        self._stream = BetonStream(data, out, FIELDS, num_samples=num_samples, page_size=page_size)
        self.outcome = Outcome()
        self._syncing = ThreadPoolExecutor(1)
        self._sync: Future[None] | None = None
        self._synced_end = 0

    def recall(self, job: Job) -> None:
        """Take up all records that stand in both files, undamaged, and cut off what comes after them."""
        num_list_bytes, num_data_bytes = 0, self.data_path.stat().st_size
        for line, sample in zip(read_record_list(self.list_path, complete=False), job.samples(), strict=False):
            if line.name != sample.name:
                break
            if isinstance(line, RecordLine):
                start = self._stream.offset_of_next(line.num_bytes)
                if start + line.num_bytes > num_data_bytes:
                    break
                data = os.pread(self._data.fileno(), line.num_bytes, start)
                if zlib.crc32(data) != line.crc32:
                    break
                try:
                    self._stream.recall(_values(line, data))
                except BetonError:
                    break
            self.outcome.add(line)
            num_list_bytes += len(format_line(line))
        self._lines.truncate(num_list_bytes)
        self._lines.seek(num_list_bytes)
        self._data.truncate(self._stream.end)

    def append(self, line: RecordLine | SkippedLine, data: bytes) -> None:
        """Write the next record, or note that a sample was left out."""
        if isinstance(line, RecordLine):
            try:
                self._stream.append(_values(line, data))
            except BetonError as error:
                raise BetonError(f"{error} (at {line.name})") from error
            if self._stream.end - self._synced_end > _SYNC_BYTES:
                self._sync_behind()
        self._lines.write(format_line(line))
        self.outcome.add(line)

    def finish(self) -> None:
        """Make a whole file of it."""
        if self._sync:
            self._sync.result()  # an error of the disk is told once
        self._stream.finish()
        for file in (self._data, self._lines):
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Wait for the disk."""
        self._syncing.shutdown()

    def _sync_behind(self) -> None:
        """Have the disk write what there is, once it has written what there was before."""
        if self._sync:
            self._sync.result()
        self._synced_end = self._stream.end
        self._sync = self._syncing.submit(os.fdatasync, self._data.fileno())

    def publish(self, card: Card) -> None:
        """Give the files their names, the `.beton` last."""
        card.write(card_path(self._out))
        self.list_path.replace(record_list_path(self._out))
        self.data_path.replace(self._out)
        self.job_path.unlink()

    def discard(self) -> None:
        """Remove the files."""
        for path in (self.data_path, self.list_path, self.job_path):
            path.unlink(missing_ok=True)


def partial_paths(out: Path) -> tuple[Path, Path, Path]:
    """Where a file in the making, its record list and its job lie."""
    data = out.with_name(out.name + ".partial")
    return data, record_list_path(data), card_path(data)


@contextmanager
def _partial_beton(out: Path, job: Job, config: WriteFfcv) -> Iterator[PartialBeton]:
    """Open the files, new or as an interrupted conversion left them; after an exception they stay if records came."""
    data_path, list_path, job_path = partial_paths(out)

    def clear() -> None:
        for path in (data_path, list_path):
            path.unlink(missing_ok=True)

    try:
        is_resumed = claim(job_path, job, resume=config.resume, overwrite=config.overwrite, clear=clear)
        if is_resumed and not list_path.exists() and record_list_path(out).exists():
            record_list_path(out).replace(list_path)  # its conversion ended between the last two names
        mode: Literal["r+b", "w+b"] = "r+b" if is_resumed and data_path.exists() and list_path.exists() else "w+b"
        with data_path.open(mode) as data, list_path.open(mode) as lines:
            partial = PartialBeton(out, job, data, lines, page_size=config.page_size)
            partial.recall(job)
            try:
                yield partial
            except BaseException:
                if partial.outcome.num_samples == 0:
                    partial.discard()
                raise
            finally:
                partial.close()
    except OSError as error:  # closing writes what is still buffered: on a full disk that fails again
        raise ValueError(
            f"{out}: cannot be written: {error.strerror or error}; make room there or choose another place"
        ) from error


def _values(line: RecordLine, data: bytes) -> tuple[EncodedImage, int]:
    return EncodedImage(data, _MODES[line.format], line.height, line.width), line.label


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""
    config = tyro.cli(WriteFfcv, args=argv)
    return run_command_line(lambda: write_ffcv(config))


if __name__ == "__main__":
    sys.exit(main())
