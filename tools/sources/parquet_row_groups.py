"""Row groups of parquet files, read when one of their rows is asked for, the latest few kept."""

from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from loaders.errors import FastvitError, reason_of

__all__ = ["RowGroup", "RowGroups", "damaged", "open_parquet"]

_MIN_KEPT = 2  # neighbours may lie on both sides of a border
_KEPT_BYTES = 1 << 27


class RowGroup(NamedTuple):
    """Where a row group is."""

    path: Path
    number: int
    """Its place in the file."""
    num_bytes: int
    """What it takes up in memory, as far as the file's footer tells."""


class RowGroups:
    """One column of row groups, as many of the latest ones as 128 MiB hold, at least two.

    Safe to use from many threads; however many wait for a group, one of them reads it.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._lock = Lock()
        self._kept: OrderedDict[RowGroup, Future[pa.ChunkedArray]] = OrderedDict()

    def read(self, group: RowGroup) -> pa.ChunkedArray:
        """The column in a group.

        Raises:
            FastvitError: The file is damaged there.
            OSError: It cannot be read.
        """
        with self._lock:
            future = self._kept.get(group)
            is_new = future is None
            if future is None:
                future = self._kept[group] = Future()
                self._drop_oldest()
            self._kept.move_to_end(group)
        if is_new:
            try:
                future.set_result(self._read(group))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _read(self, group: RowGroup) -> pa.ChunkedArray:
        with open_parquet(group.path) as file:
            try:
                # Without pyarrow's own threads: the converter's are as many as there are cores.
                return file.read_row_group(group.number, [self._column], use_threads=False).column(0)
            except (pa.ArrowException, OSError) as error:
                raise damaged(group.path, error) from error

    def _drop_oldest(self) -> None:
        num_bytes = sum(group.num_bytes for group in self._kept)
        while len(self._kept) > _MIN_KEPT and num_bytes > _KEPT_BYTES:
            group, _ = self._kept.popitem(last=False)
            num_bytes -= group.num_bytes


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file for reading one column of a row group page by page, and checking pages that have checksums.

    Raises:
        FastvitError: It is no parquet file, or damaged.
        OSError: It cannot be opened.
    """
    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> FastvitError:
    """What to raise in the place of an error of pyarrow's."""
    return FastvitError(f"{path}: no parquet file, or damaged: {reason_of(error):.200}; download it again")
