"""Writer of FFCV's ``.beton`` files; `loaders.beton` is the public face."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

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
from loaders.atomic_file import AtomicWriter, clear_os_errors


class BetonStream:
    """Lays records out in an open file, whose bytes depend on the records, `num_samples` and the page size alone.

    The layout is the one that FFCV's own writer makes with one worker, byte for byte. Until `finish` the file has no
    header, so that no reader takes it for a whole one.

    Args:
        file: An empty file, or one that holds the beginning of what is to be written: see `recall`.
        path: What to call the file in messages.
        fields: The fields of a record, in order.
        num_samples: The largest number of records that may come.
        page_size: Bytes of a page: a power of two from 2 MiB up. A record that is larger makes the file's pages larger.

    Attributes:
        page_size: Bytes of a page so far. It may be raised before `finish`, to another power of two.
        num_records: How many there are so far.
        end: Where the last record's bytes end.

    Raises:
        BetonError: A field name, the number of records or the page size does not suit the format.

    Examples:
        Into a file of one's own making; a `BetonWriter` does this into a file that appears once it is whole:

        >>> from pathlib import Path
        >>> from loaders.beton import DEFAULT_PAGE_SIZE, Beton, BetonStream, EncodedImage, FieldKind, ImageMode
        >>> fields = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
        >>> path = Path("stream.beton")
        >>> with path.open("wb") as file:
        ...     stream = BetonStream(file, path, fields, num_samples=3, page_size=DEFAULT_PAGE_SIZE)
        ...     for label in range(2):  # fewer than were announced: the file has those that came
        ...         stream.append([EncodedImage(bytes(12), ImageMode.RAW, height=2, width=2), label])
        ...     stream.finish()
        >>> Beton(path).labels
        array([0, 1])
    """

    def __init__(
        self, file: BinaryIO, path: Path, fields: Mapping[str, FieldKind], *, num_samples: int, page_size: int
    ) -> None:
        _check_format(path, fields, num_samples, page_size)
        self._file, self._path, self._fields = file, path, dict(fields)
        self.page_size = page_size
        num_images = sum(kind is FieldKind.RGB_IMAGE for kind in fields.values())
        self._metadata = np.zeros(num_samples, metadata_type(self._fields))
        self._allocations = np.zeros((num_samples, num_images), ALLOCATION_TYPE)
        self._metadata_offset = HEADER_TYPE.itemsize + len(self._fields) * FIELD_TYPE.itemsize
        self.num_records = 0
        self.end = _round_up(self._metadata_offset + self._metadata.nbytes, page_size)

    def offset_of_next(self, num_bytes: int) -> int:
        """Where in the file a next record with so many bytes of images begins."""
        page_size = self._page_size_with(num_bytes)
        if self.end % page_size + num_bytes > page_size:
            return _round_up(self.end, page_size)
        return self.end

    def _page_size_with(self, num_bytes: int) -> int:
        """The page size that a record of so many bytes makes of it: a record within a page is within a larger one."""
        return max(self.page_size, 1 << (num_bytes - 1).bit_length())

    def append(self, values: Sequence[Value]) -> None:
        """Write the next record, its values in field order.

        Raises:
            BetonError: A value does not suit its field, the record is larger than the largest page, there are more
                records than `num_samples`, or the disk is full.
        """
        record = self._checked(values)
        start = self.offset_of_next(record.num_bytes)
        with clear_os_errors(self._path, BetonError):
            if start != self._file.tell():
                self._file.seek(start)  # what is skipped reads as zeros
            self._file.writelines(record.payloads)
        self._note(record, start)

    def recall(self, values: Sequence[Value]) -> None:
        """Take up the next record, whose bytes stand in the file already, where `append` would have put them.

        Raises:
            BetonError: See `append`.
        """
        record = self._checked(values)
        self._note(record, self.offset_of_next(record.num_bytes))

    def finish(self) -> None:
        """Write everything around the pages; the header, without which the file is none, last.

        Raises:
            BetonError: There is no record, or the disk is full.
        """
        if self.num_records == 0:
            raise BetonError(f"{self._path}: cannot be written: no record came")
        with clear_os_errors(self._path, BetonError):
            self._write_tables(self._metadata[: self.num_records], self._allocations[: self.num_records])

    def _checked(self, values: Sequence[Value]) -> Record:
        if self.num_records == len(self._metadata):
            raise BetonError(f"{self._path}: more than the num_samples={self.num_records} records that were announced")
        try:
            return check_record(self._fields, values)
        except ValueError as error:
            raise BetonError(f"{self._path}: record {self.num_records}: {error}") from error

    def _note(self, record: Record, start: int) -> None:
        """Enter a record's place into the tables."""
        self.page_size = self._page_size_with(record.num_bytes)
        self.end = start
        for image, payload in enumerate(record.payloads):
            self._allocations[self.num_records, image] = (self.num_records, self.end, payload.nbytes)
            self.end += payload.nbytes
        self._metadata[self.num_records] = tuple(
            (*value[:3], start + value[3]) if isinstance(value, tuple) else value for value in record.values
        )
        self.num_records += 1

    def _write_tables(self, metadata: NDArray[Any], allocations: NDArray[Any]) -> None:
        header = np.zeros((), HEADER_TYPE)
        header["version"] = VERSION
        header["num_fields"] = len(self._fields)
        header["page_size"] = self.page_size
        header["num_samples"] = len(metadata)
        header["allocation_table_offset"] = table_offset = (
            _round_up(self.end, self.page_size)
            if allocations.size
            else self._metadata_offset + metadata.nbytes  # no images, no pages
        )
        descriptors = np.zeros(len(self._fields), FIELD_TYPE)
        for descriptor, (name, kind) in zip(descriptors, self._fields.items(), strict=True):
            descriptor["kind"] = kind
            descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
        self._file.seek(table_offset)
        self._file.write(allocations.tobytes())
        self._file.truncate()
        self._file.seek(HEADER_TYPE.itemsize)
        self._file.write(descriptors.tobytes())
        self._file.write(metadata.tobytes())
        self._file.seek(0)
        self._file.write(header.tobytes())


class BetonWriter(AtomicWriter):
    """Writes records one after another into a file that appears once it is whole: see `BetonStream`, `AtomicWriter`.

    Args:
        path: The file; what stood there is replaced.
        fields: The names and kinds of a record's fields, in order; names have 1 to 16 ASCII characters.
        num_samples: How many records will come.
        page_size: Bytes of a page: a power of two from 2 MiB up. A record that is larger makes the file's pages larger.

    Raises:
        BetonError: A field name or the page size does not suit the format, fewer records came than were announced, or
            the file cannot be written.

    Examples:
        >>> import numpy as np
        >>> from loaders.beton import BetonWriter, EncodedImage, FieldKind, ImageMode
        >>> images = np.zeros((100, 32, 32, 3), np.uint8)
        >>> fields = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT, "weight": FieldKind.FLOAT}
        >>> with BetonWriter("raw.beton", fields, num_samples=100) as writer:
        ...     for label, image in enumerate(images):
        ...         writer.append([EncodedImage(image, ImageMode.RAW, height=32, width=32), label % 10, 0.5])
    """

    def __init__(
        self,
        path: Path | str,
        fields: Mapping[str, FieldKind],
        *,
        num_samples: int,
        page_size: int = DEFAULT_PAGE_SIZE,
    ) -> None:
        _check_format(Path(path), fields, num_samples, page_size)
        super().__init__(Path(path), BetonError)
        self._fields, self._num_samples, self._page_size = dict(fields), num_samples, page_size

    def __enter__(self) -> Self:
        super().__enter__()
        self._stream = BetonStream(
            self._file, self.path, self._fields, num_samples=self._num_samples, page_size=self._page_size
        )
        return self

    def append(self, values: Sequence[Value]) -> None:
        """Write the next record: see `BetonStream.append`."""
        self._stream.append(values)

    def _finish(self) -> None:
        if self._stream.num_records != self._num_samples:
            raise BetonError(
                f"{self.path}: {self._stream.num_records} records came where num_samples={self._num_samples} were "
                "announced"
            )
        self._stream.finish()


def _check_format(path: Path, fields: Mapping[str, FieldKind], num_samples: int, page_size: int) -> None:
    fault = _fields_fault(fields) or page_size_fault(page_size)
    if fault is None and num_samples < 1:
        fault = f"num_samples must be positive, got {num_samples}"
    if fault is not None:
        raise BetonError(f"{path}: cannot be written: {fault}")


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
