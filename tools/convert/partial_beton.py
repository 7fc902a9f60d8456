"""A `.beton` file in the making, the list of its records and the note of its job: kept until the file is whole."""

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from loaders.atomic_file import sync_folder
from loaders.beton import BetonError, BetonStream, EncodedImage, FieldKind, ImageMode
from loaders.companions import card_path, record_list_path
from loaders.errors import FastvitError
from tools.convert.claim import claim
from tools.convert.job import Job
from tools.convert.outcome import Outcome
from tools.listings.card import Card
from tools.listings.record_list import RecordLine, SkippedLine, format_line, read_record_list

__all__ = ["FIELDS", "PartialBeton", "partial_beton", "partial_paths"]

FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
"""The fields of every record."""

# The disk writes while the next images are encoded, instead of all of them at the end.
_SYNC_BYTES = 1 << 27
_MODES = {"jpg": ImageMode.JPG, "raw": ImageMode.RAW}


class PartialBeton:
    """A `.beton` file in the making and the list of its records, from which it can be taken up again.

    Its records are laid out in pages of `page_size` from the first to the last, however often it is taken up: else what
    stands in the file would not be found. The finished file's pages have at least `min_page_size` bytes.
    """

    def __init__(
        self, out: Path, job: Job, data: BinaryIO, lines: BinaryIO, *, page_size: int, min_page_size: int
    ) -> None:
        self._out, self._data, self._lines = out, data, lines
        self.data_path, self.list_path, self.job_path = partial_paths(out)
        num_samples = len(job)
        self._stream = BetonStream(data, out, FIELDS, num_samples=num_samples, page_size=page_size)
        self._min_page_size = min_page_size
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
        # Either file may be ahead of the other, whatever the disk had written last.
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
        self._stream.page_size = max(self._stream.page_size, self._min_page_size)
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
        """Give the files their names, the `.beton` last: where it is, card and list are its own."""
        card.write(card_path(self._out))
        self.list_path.replace(record_list_path(self._out))
        self.data_path.replace(self._out)
        sync_folder(self._out.parent)  # or a power cut could leave neither the names nor the note
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
def partial_beton(out: Path, job: Job, *, page_size: int, resume: bool, overwrite: bool) -> Iterator[PartialBeton]:
    """Open the files, new or as an interrupted conversion left them; after an exception they stay if images came.

    Args:
        out: The file that it becomes: see `PartialBeton.publish`.
        job: What is converted.
        page_size: Bytes of FFCV's pages, at least. What an interrupted conversion wrote in smaller ones stays.
        resume: Continue where there is a note of the same job.
        overwrite: Start from the beginning whatever there is.

    Raises:
        FastvitError: There is an interrupted conversion that is not to be continued, or a file cannot be written.
    """
    data_path, list_path, job_path = partial_paths(out)

    def clear() -> None:
        for path in (data_path, list_path):
            path.unlink(missing_ok=True)

    try:
        note = claim(job_path, job, resume=resume, overwrite=overwrite, may_grow=["page_size"], clear=clear)
        if note and not list_path.exists() and record_list_path(out).exists():
            record_list_path(out).replace(list_path)  # its conversion ended between the last two names
        mode: Literal["r+b", "w+b"] = "r+b" if note and data_path.exists() and list_path.exists() else "w+b"
        with data_path.open(mode) as data, list_path.open(mode) as lines:
            first_page_size = note["page_size"] if note else page_size
            partial = PartialBeton(out, job, data, lines, page_size=first_page_size, min_page_size=page_size)
            partial.recall(job)
            try:
                yield partial
            except BaseException:
                if partial.outcome.num_images == 0:
                    partial.discard()
                raise
            finally:
                partial.close()
    except OSError as error:  # closing writes what is still buffered: on a full disk that fails again
        raise FastvitError(
            f"{out}: cannot be written: {error.strerror or error}; make room there or choose another place"
        ) from error


def _values(line: RecordLine, data: bytes) -> tuple[EncodedImage, int]:
    return EncodedImage(data, _MODES[line.format], line.height, line.width), line.label
