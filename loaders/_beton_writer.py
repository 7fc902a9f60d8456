"""Writer of FFCV's ``.beton`` files; `loaders.beton` is the public face."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import numpy as np

from loaders._beton_format import (
    ALLOCATION_TYPE,
    DEFAULT_PAGE_SIZE,
    FIELD_TYPE,
    HEADER_TYPE,
    MAX_NAME_BYTES,
    VERSION,
    BetonError,
    FieldKind,
    metadata_type,
    page_size_fault,
)
from loaders._beton_record import Record, Value, check_record
from loaders.atomic_file import atomic_file

SampleT = TypeVar("SampleT")

_SAMPLES_IN_FLIGHT_PER_WORKER = 4


class BetonWriter:
    """Writes records one after another; the bytes of the file depend on the records and the page size alone.

    A context manager: leaving it in the ordinary way puts the finished file at `path`; leaving it by an exception
    leaves nothing. The layout is the one that FFCV's own writer makes with one worker, byte for byte.

    Raises:
        BetonError: A field name or the page size does not suit the format, or the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        fields: Mapping[str, FieldKind],
        *,
        num_samples: int,
        page_size: int = DEFAULT_PAGE_SIZE,
    ) -> None:
        self.path = Path(path)
        fault = _fields_fault(fields) or page_size_fault(page_size)
        if fault is None and num_samples < 1:
            fault = f"num_samples must be positive, got {num_samples}"
        if fault is None and self.path.is_dir():
            fault = "it is a folder; name a file"
        if fault is not None:
            raise BetonError(f"{self.path}: cannot be written: {fault}")
        self.fields = dict(fields)
        self.page_size = page_size
        num_images = sum(kind is FieldKind.RGB_IMAGE for kind in self.fields.values())
        self._metadata = np.zeros(num_samples, metadata_type(self.fields))
        self._allocations = np.zeros((num_samples, num_images), ALLOCATION_TYPE)
        self._num_written = 0
        self._metadata_offset = HEADER_TYPE.itemsize + len(self.fields) * FIELD_TYPE.itemsize
        self._end = _round_up(self._metadata_offset + self._metadata.nbytes, page_size)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with _clear_os_errors(self.path):
            self._file: BinaryIO = self._open.enter_context(atomic_file(self.path))
            self._file.seek(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._open.__exit__(kind, error, traceback)
            return
        with _clear_os_errors(self.path), self._open:
            self._finish()

    def append(self, values: Sequence[Value]) -> None:
        """Write the next record, its values in field order.

        Raises:
            BetonError: A value does not suit its field, the record is larger than a page, there are more records than
                `num_samples`, or the disk is full.
        """
        try:
            record = check_record(self.fields, values, self.page_size)
        except ValueError as error:
            raise BetonError(f"{self.path}: record {self._num_written}: {error}") from error
        self._write(record)

    def _write(self, record: Record) -> None:
        index = self._num_written
        if index == len(self._metadata):
            raise BetonError(f"{self.path}: more than the num_samples={index} records that were announced")
        start = self._end
        if start % self.page_size + record.num_bytes > self.page_size:
            start = _round_up(start, self.page_size)
        with _clear_os_errors(self.path):
            if start != self._end:
                self._file.seek(start)  # what is skipped reads as zeros
            self._end = start
            for image, payload in enumerate(record.payloads):
                self._file.write(payload)
                self._allocations[index, image] = (index, self._end, payload.nbytes)
                self._end += payload.nbytes
        self._metadata[index] = tuple(
            (*value[:3], start + value[3]) if isinstance(value, tuple) else value for value in record.values
        )
        self._num_written += 1

    def _finish(self) -> None:
        """Write everything around the pages; the header, without which the file is none, last."""
        if self._num_written != len(self._metadata):
            raise BetonError(
                f"{self.path}: {self._num_written} records came where num_samples={len(self._metadata)} were announced"
            )
        header = np.zeros((), HEADER_TYPE)
        header["version"] = VERSION
        header["num_fields"] = len(self.fields)
        header["page_size"] = self.page_size
        header["num_samples"] = len(self._metadata)
        header["allocation_table_offset"] = table_offset = (
            _round_up(self._end, self.page_size)
            if self._allocations.size
            else self._metadata_offset + self._metadata.nbytes  # no images, no pages
        )
        descriptors = np.zeros(len(self.fields), FIELD_TYPE)
        for descriptor, (name, kind) in zip(descriptors, self.fields.items(), strict=True):
            descriptor["kind"] = kind
            descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
        self._file.seek(table_offset)
        self._file.write(self._allocations.tobytes())
        self._file.seek(HEADER_TYPE.itemsize)
        self._file.write(descriptors.tobytes())
        self._file.write(self._metadata.tobytes())
        self._file.seek(0)
        self._file.write(header.tobytes())


def write_beton(
    path: Path | str,
    fields: Mapping[str, FieldKind],
    samples: Iterable[SampleT],
    encode: Callable[[SampleT], Sequence[Value]],
    *,
    num_samples: int,
    num_workers: int = 1,
    page_size: int = DEFAULT_PAGE_SIZE,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Encode samples on a pool of threads and write them in their own order, whatever the number of threads.

    Args:
        path: The file to write; it appears, complete, at the end, and not at all after an exception or Ctrl-C.
        fields: The fields of a record, in order.
        samples: What to write. Only a few for each worker are taken ahead; ``str(sample)`` names one in errors.
        encode: Turns a sample into its values, in field order. Runs on the pool, so it must be thread-safe.
        num_samples: How many samples there are.
        num_workers: The number of threads that encode.
        page_size: Bytes of a page: a power of two from 2 MiB up; no record can be larger.
        on_progress: Called with the number of records written so far after each of them.

    Raises:
        BetonError: A sample cannot be encoded or does not suit its fields (the message names it, and nothing more is
            encoded), `samples` are not `num_samples`, or the file cannot be written.
    """
    if num_workers < 1:
        raise BetonError(f"{path}: cannot be written: num_workers must be positive, got {num_workers}")

    def checked(sample: SampleT) -> Record:
        return check_record(fields, encode(sample), page_size)

    with (
        BetonWriter(path, fields, num_samples=num_samples, page_size=page_size) as writer,
        closing(_in_order(checked, samples, num_workers)) as records,
    ):
        for index, (sample, future) in enumerate(records):
            try:
                record = future.result()
            except Exception as error:
                reason = str(error) or type(error).__name__
                raise BetonError(f"{path}: cannot be written: sample {index} ({sample}): {reason}") from error
            writer._write(record)
            if on_progress is not None:
                on_progress(index + 1)


def _in_order(
    function: Callable[[SampleT], Record], samples: Iterable[SampleT], num_workers: int
) -> Generator[tuple[SampleT, Future[Record]], None, None]:
    """Pair each sample, in order, with the future of its result, keeping a bounded number of them in flight."""
    pool = ThreadPoolExecutor(num_workers)
    window: deque[tuple[SampleT, Future[Record]]] = deque()
    try:
        for sample in samples:
            window.append((sample, pool.submit(function, sample)))
            if len(window) > _SAMPLES_IN_FLIGHT_PER_WORKER * num_workers:
                yield window.popleft()
        yield from window
    finally:
        pool.shutdown(cancel_futures=True)


def _fields_fault(fields: Mapping[str, FieldKind]) -> str | None:
    """What is wrong with these fields, or None."""
    if not fields:
        return "it needs at least one field"
    for name in fields:
        if not name.isascii() or "\0" in name or not 1 <= len(name) <= MAX_NAME_BYTES:
            return f"field name {name!r} is not 1 to {MAX_NAME_BYTES} ASCII characters; choose another"
    return None


def _round_up(offset: int, page_size: int) -> int:
    return -(-offset // page_size) * page_size


@contextmanager
def _clear_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and its like into one message."""
    try:
        yield
    except OSError as error:
        raise BetonError(
            f"{path}: cannot be written: {error.strerror or error}; make room there or choose another place"
        ) from error
