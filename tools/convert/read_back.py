"""One converted file read back: every stored byte and every pixel, compared with the list of what was written."""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from loaders import LoaderConfig, build_loader
from loaders.beton import Beton, ImageMode
from loaders.tfrecord_shard import TFRecordShard
from tools.convert.progress import Advance
from tools.listings.record_list import RecordLine, read_record_list

__all__ = ["ReadBack", "RecordList", "Stored", "compare_records", "describe_gap", "load_record_list", "read_back"]


class Stored(Protocol):
    """A converted file: a `Beton`, a `TarShard` or a `TFRecordShard`."""

    path: Path

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [n]."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many bytes each image has, int64 [n]."""

    def image_bytes(self, index: int) -> NDArray[np.uint8]:
        """One image's bytes, uint8 [size]."""

    def check_is_whole(self) -> None:
        """See to it that the file is as long as when it was opened, or what was read of it may be zeros."""


# Small, so that a shard's first and last images keep all threads busy.
_BATCH_SIZE = 64
_BATCHES_AHEAD = 8
_RESOLUTION = 32

_LISTED_TYPE = np.dtype(
    [("crc32", "u4"), ("num_bytes", "i8"), ("format", "U3"), ("height", "i8"), ("width", "i8"), ("label", "i8")]
)


class RecordList(NamedTuple):
    """A record list, without its names."""

    path: Path
    records: NDArray[Any]
    """The columns of `RecordLine` up to `label`, structured [num_records]."""
    num_skipped: int
    """How many samples were left out."""

    def names(self, numbers: Iterable[int]) -> dict[int, str]:
        """The names of these records, which are read from the file once more."""
        wanted = set(numbers)
        lines = (line for line in read_record_list(self.path) if isinstance(line, RecordLine))
        needed = islice(enumerate(lines), max(wanted, default=-1) + 1)
        return {number: line.name for number, line in needed if number in wanted}


class ReadBack(NamedTuple):
    """What is in a file."""

    crc32s: NDArray[np.uint32]
    """`zlib.crc32` of each image's stored bytes, uint32 [n]."""
    undecodable: dict[int, str]
    """The reasons why images could not be decoded whole, by record."""
    unsound: Sequence[int] = ()
    """Records that have a checksum in the file itself, and another one now."""


def load_record_list(path: Path) -> RecordList:
    """Read a whole record list, all but its names.

    Raises:
        FastvitError: It is damaged or cannot be read.
    """
    num_skipped = 0

    def records() -> Iterator[tuple[int | str, ...]]:
        nonlocal num_skipped
        for line in read_record_list(path):
            if isinstance(line, RecordLine):
                yield line[:6]
            else:
                num_skipped += 1

    columns = np.fromiter(records(), _LISTED_TYPE)
    return RecordList(path, columns, num_skipped)


def read_back(file: Stored, *, num_workers: int, advance: Advance) -> ReadBack:
    """Decode every image of a file whole, and take the checksums of what was just decoded.

    Args:
        file: A file with at least one record.
        num_workers: Threads that decode, and at most as many that take checksums.
        advance: Told of images and bytes that are done.

    Raises:
        FastvitError: The file became shorter meanwhile.
    """
    config = LoaderConfig(
        batch_size=_BATCH_SIZE,
        resolution=_RESOLUTION,
        crop="whole",
        order="sequential",
        drop_last=False,
        on_error="skip",
        num_workers=num_workers,
        prefetch_batches=_BATCHES_AHEAD,
    )
    crc32s = np.zeros(len(file.sizes), np.uint32)
    unsound: list[int] = []

    def take_checksums(start: int, stop: int) -> None:
        for number in range(start, stop):
            crc32s[number] = zlib.crc32(file.image_bytes(number).data)
            if isinstance(file, TFRecordShard) and not file.is_sound(number):
                unsound.append(number)

    # Checksums follow the decoder closely, while the bytes are still in the page cache: the disk is read once.
    pending: deque[Future[None]] = deque()
    start = 0
    with closing(build_loader("native", file.path, config)) as loader, ThreadPoolExecutor(num_workers) as pool:
        for _ in loader:
            stop = min(start + _BATCH_SIZE, len(crc32s))
            pending.append(pool.submit(take_checksums, start, stop))
            if len(pending) > 2 * num_workers:
                pending.popleft().result()
            advance(stop - start, int(file.sizes[start:stop].sum()))
            start = stop
        for future in pending:
            future.result()
        file.check_is_whole()
        return ReadBack(crc32s, {sample.index: sample.reason for sample in loader.skipped}, unsound)


def compare_records(file: Stored, found: ReadBack, listed: RecordList) -> dict[int, list[str]]:
    """Compare a file's records with a list of as many, one by one: what is wrong with each bad one."""
    columns: dict[str, NDArray[Any]] = {"crc32": found.crc32s, "num_bytes": file.sizes, "label": file.labels}
    if isinstance(file, Beton):
        formats = np.where(file.modes == ImageMode.RAW, "raw", "jpg")
        columns |= {"format": formats, "height": file.heights, "width": file.widths}
    faults: dict[int, list[str]] = {}
    for name, values in columns.items():
        written = listed.records[name]
        style = "08x" if name == "crc32" else ""
        for number in np.flatnonzero(values != written).tolist():
            fault = f"{name} is {values[number]:{style}}, {written[number]:{style}} was written"
            faults.setdefault(number, []).append(fault)
    return faults


def describe_gap(file: Stored, found: ReadBack, listed: RecordList) -> str:
    """Say which records a file lacks, or has more of, than a list of another length."""
    stored = np.rec.fromarrays([found.crc32s, file.sizes, file.labels])
    written = np.rec.fromarrays([listed.records[name] for name in ("crc32", "num_bytes", "label")])
    shorter = min(len(stored), len(written))
    first = _num_equal(stored[:shorter], written[:shorter])
    last = _num_equal(stored[::-1][: shorter - first], written[::-1][: shorter - first])
    num_stored, num_written = len(stored) - first - last, len(written) - first - last
    counts = f"{len(stored)} records, where the record list has {len(written)}"
    if not num_written:
        return f"{counts}: {num_stored} from record {first} on are not in the list"
    name = listed.names([first])[first]
    if not num_stored:
        return f"{counts}: {num_written} from record {first} ({name!r}) on are missing"
    return f"{counts}: from record {first} ({name!r}) on, {num_stored} stand where {num_written} were written"


def _num_equal(a: NDArray[Any], b: NDArray[Any]) -> int:
    """How many elements at the start of two arrays of one length are equal."""
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else len(a)
