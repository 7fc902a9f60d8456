"""FFCV's ``.beton`` files: images and numbers in one mapped file, read and written without FFCV.

What is written here opens in FFCV, and what FFCV writes opens here; `loaders/_beton_format.py` describes the layout.
Nothing read from a file is ever executed or unpickled, and every offset, size and count is checked when it is opened.

Examples:
    Write two images, one as pixels and one as a JPEG file, and read them:

    >>> import numpy as np
    >>> from pathlib import Path
    >>> from loaders.beton import Beton, BetonWriter, EncodedImage, FieldKind, ImageMode
    >>> pixels = np.zeros((32, 48, 3), np.uint8)
    >>> jpeg = Path("photos/cat/0.jpg").read_bytes()  # of 120 x 160 pixels
    >>> fields = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
    >>> with BetonWriter("two.beton", fields, num_samples=2) as writer:
    ...     writer.append([EncodedImage(pixels, ImageMode.RAW, height=32, width=48), 5])
    ...     writer.append([EncodedImage(jpeg, ImageMode.JPG, height=120, width=160), 7])
    >>> with Beton("two.beton") as beton:
    ...     print(beton.labels, beton.heights, beton.widths, beton.modes)
    ...     beton.image_bytes(1).tobytes() == jpeg
    [5 7] [ 32 120] [ 48 160] [1 0]
    True
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders._beton_format import (
    ALLOCATION_TYPE,
    DEFAULT_PAGE_SIZE,
    FIELD_METADATA_TYPES,
    FIELD_TYPE,
    HEADER_TYPE,
    MAX_PAGE_SIZE,
    MAX_SIDE,
    MIN_PAGE_SIZE,
    NUM_CHANNELS,
    VERSION,
    BetonError,
    EncodedImage,
    FieldKind,
    ImageMode,
    metadata_type,
    page_size_fault,
)
from loaders._beton_writer import BetonStream, BetonWriter

__all__ = [
    "ALLOCATION_TYPE",
    "DEFAULT_PAGE_SIZE",
    "FIELD_TYPE",
    "HEADER_TYPE",
    "MAX_PAGE_SIZE",
    "MAX_SIDE",
    "MIN_PAGE_SIZE",
    "Beton",
    "BetonError",
    "BetonStream",
    "BetonWriter",
    "EncodedImage",
    "FieldKind",
    "ImageMode",
    "metadata_type",
    "page_size_fault",
]

_DAMAGED = "the file is cut short or damaged: copy or write it again"
_FOREIGN = "this is not a .beton file of FFCV's version 2: write one with fastvit-data write-ffcv or with FFCV"
_UNFINISHED = "its writer did not finish: write it again"


class _Images(NamedTuple):
    """One image field's columns, each [num_samples], all checked."""

    modes: NDArray[np.uint8]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


class Beton:
    """An open ``.beton`` file, mapped read-only.

    A context manager. It may be pickled, so that worker processes can carry it: they open `path` again. The columns
    below belong to the file's first image field and first int field; `metadata` holds every field.

    Attributes:
        path: The file.
        page_size: Bytes of a page: no image crosses a multiple of it.
        num_samples: The number of records.
        field_names: The names of a record's fields, in order.
        metadata: The fields of all records, structured [num_samples]; an image is a (mode, width, height, data_ptr).

    Raises:
        BetonError: The file is missing, is no ``.beton``, is cut short, or points outside itself.

    Examples:
        >>> from loaders.beton import Beton, ImageMode
        >>> with Beton("train.beton") as beton:
        ...     print(beton.num_samples, beton.field_names, beton.labels.dtype)
        ...     print(ImageMode(beton.modes[0]).name, beton.heights[0], beton.widths[0])
        ...     print(beton.image_bytes(0)[:2])  # of a JPEG file
        10 ('image', 'label') int64
        JPG 120 160
        [255 216]
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        data = _map_file(self.path)
        header = _read_header(self.path, data)
        self.page_size = int(header["page_size"])
        self.num_samples = int(header["num_samples"])
        kinds, metadata_offset = _read_fields(self.path, data, int(header["num_fields"]))
        self.field_names = tuple(kinds)
        self.metadata = _read_rows(
            self.path, data, "metadata", metadata_type(kinds), offset=metadata_offset, num_rows=self.num_samples
        )
        pages_offset = metadata_offset + self.metadata.nbytes
        table = _read_table(self.path, data, pages_offset, header)
        images = [
            _read_images(self.path, name, self.metadata[name], table)
            for name, kind in kinds.items()
            if kind == FieldKind.RGB_IMAGE
        ]
        self._images = images[0] if images else None
        labels = [self.metadata[name].astype(np.int64) for name, kind in kinds.items() if kind == FieldKind.INT]
        self._labels = labels[0] if labels else None
        self._data: NDArray[np.uint8] | None = data
        self.check_is_whole()

    @property
    def labels(self) -> NDArray[np.int64]:
        """The first int field, int64 [num_samples].

        Raises:
            BetonError: The file has no int field.
        """
        if self._labels is None:
            raise BetonError(f"{self.path}: no int field among {', '.join(self.field_names)} to take labels from")
        return self._labels

    @property
    def modes(self) -> NDArray[np.uint8]:
        """How each image is stored, an `ImageMode`: uint8 [num_samples]."""
        return self._image_columns().modes

    @property
    def heights(self) -> NDArray[np.int64]:
        """The images' heights in pixels, int64 [num_samples]."""
        return self._image_columns().heights

    @property
    def widths(self) -> NDArray[np.int64]:
        """The images' widths in pixels, int64 [num_samples]."""
        return self._image_columns().widths

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where in the file each image's bytes begin, int64 [num_samples]."""
        return self._image_columns().offsets

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many bytes each image has, int64 [num_samples]."""
        return self._image_columns().sizes

    def image_bytes(self, index: int) -> NDArray[np.uint8]:
        """One image's bytes, uint8 [size]: a read-only view into the mapped file, not a copy.

        Should the file be cut short while they are in use, they turn to zeros: `check_is_whole` tells.

        Raises:
            BetonError: The file is closed, has no image field or has become shorter.
            IndexError: There is no such record.
        """
        images = self._image_columns()
        offset = images.offsets[index]
        self.check_is_whole()
        return self.data[offset : offset + images.sizes[index]]

    def check_is_whole(self) -> None:
        """See to it that the file is as long as when it was opened; to be called after its bytes were used.

        Raises:
            BetonError: It is closed or has become shorter: what was read of it may be zeros.
        """
        if not _native.is_whole(self.data):
            raise BetonError(f"{self.path}: {_native.cut_short}; copy or write it again")

    @property
    def data(self) -> NDArray[np.uint8]:
        """The whole mapped file, uint8 [file size], read-only.

        Raises:
            BetonError: The file is closed.
        """
        if self._data is None:
            raise BetonError(f"{self.path}: the file is closed; open it again")
        return self._data

    def close(self) -> None:
        """Let go of the mapped file; views of its images that are still held stay valid. May be called again."""
        self._data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)

    def _image_columns(self) -> _Images:
        if self._images is None:
            raise BetonError(f"{self.path}: no image field among {', '.join(self.field_names)}")
        return self._images


def _fault(path: Path, problem: str, remedy: str) -> BetonError:
    return BetonError(f"{path}: {problem}; {remedy}")


def _map_file(path: Path) -> NDArray[np.uint8]:
    try:
        if not path.is_file():
            raise _fault(path, "a folder" if path.is_dir() else "no such file", "name a .beton file")
        data = _native.map_file(os.fsencode(path))
    except OSError as error:
        raise _fault(path, error.strerror or str(error), "the file must be readable") from error
    if not len(data):
        raise _fault(path, "an empty file", _DAMAGED)
    return data


def _read_rows(
    path: Path, data: NDArray[np.uint8], what: str, dtype: np.dtype[Any], *, offset: int, num_rows: int
) -> NDArray[Any]:
    """Copy rows out of the file, having checked that they lie in it."""
    end = offset + num_rows * dtype.itemsize
    if end > len(data):
        raise _fault(path, f"its {what} would end at byte {end} of {len(data)}", _DAMAGED)
    rows = data[offset:end].copy().view(dtype)  # a copy is aligned, and stays as it was checked
    rows.flags.writeable = False
    return rows


def _read_header(path: Path, data: NDArray[np.uint8]) -> np.void:
    header: np.void = _read_rows(path, data, "header", HEADER_TYPE, offset=0, num_rows=1)[0]
    if header["version"] != VERSION:
        raise _fault(path, f"version {header['version']}", _FOREIGN)
    if header["num_fields"] == 0:
        raise _fault(path, "num_fields is 0", _FOREIGN)
    if fault := page_size_fault(int(header["page_size"])):
        raise _fault(path, fault, _FOREIGN)
    if header["num_samples"] == 0 or header["allocation_table_offset"] == 0:
        raise _fault(path, "the header tells of no records or of no allocation table", _UNFINISHED)
    return header


def _read_fields(path: Path, data: NDArray[np.uint8], num_fields: int) -> tuple[dict[str, int], int]:
    """Each field's name and kind, and the offset of what follows them."""
    rows = _read_rows(path, data, "list of fields", FIELD_TYPE, offset=HEADER_TYPE.itemsize, num_rows=num_fields)
    kinds: dict[str, int] = {}
    for row in rows:
        raw_name, kind = row["name"].tobytes().split(b"\0")[0], int(row["kind"])
        if not raw_name or not raw_name.isascii() or raw_name.decode("ascii") in kinds:
            raise _fault(path, f"field name {raw_name!r} is empty, not ASCII or there twice", _FOREIGN)
        if kind not in FIELD_METADATA_TYPES:
            raise _fault(path, f"field {raw_name!r} is of the unknown kind {kind}", "write the file without it")
        kinds[raw_name.decode("ascii")] = kind
    return kinds, HEADER_TYPE.itemsize + rows.nbytes


def _read_table(path: Path, data: NDArray[np.uint8], pages_offset: int, header: np.void) -> NDArray[Any]:
    """The allocation table, sorted by offset, every piece of data within the pages and of a record that exists."""
    table_offset = int(header["allocation_table_offset"])
    num_bytes = len(data) - table_offset
    if table_offset < pages_offset or num_bytes < 0 or num_bytes % ALLOCATION_TYPE.itemsize:
        raise _fault(path, f"an allocation table at byte {table_offset} of {len(data)}", _DAMAGED)
    num_rows = num_bytes // ALLOCATION_TYPE.itemsize
    rows = _read_rows(path, data, "allocation table", ALLOCATION_TYPE, offset=table_offset, num_rows=num_rows)
    # What is too large for int64 turns negative and is found out below.
    offsets, sizes = rows["offset"].astype(np.int64), rows["size"].astype(np.int64)
    bad = (offsets < pages_offset) | (offsets > table_offset) | (sizes < 0) | (sizes > table_offset - offsets)
    bad |= rows["sample"] >= header["num_samples"]
    if bad.any():
        row = rows[int(bad.argmax())]
        raise _fault(
            path,
            f"record {row['sample']} of {header['num_samples']} has {row['size']} bytes at byte {row['offset']}, where "
            f"the pages are bytes {pages_offset} to {table_offset}",
            _DAMAGED,
        )
    # Of pieces at one place all but one are empty: that one comes last.
    return rows[np.lexsort((sizes, offsets))]


def _read_images(path: Path, name: str, metadata: NDArray[Any], table: NDArray[Any]) -> _Images:
    """One image field's columns, every image found in the allocation table and of a size that makes sense."""
    table_offsets = table["offset"].astype(np.int64)
    offsets = metadata["data_ptr"].astype(np.int64)
    rows = np.searchsorted(table_offsets, offsets, side="right") - 1
    _check(path, name, rows >= 0, "data_ptr", offsets, "is not in the allocation table")
    _check(path, name, table_offsets[rows] == offsets, "data_ptr", offsets, "is not in the allocation table")
    images = _Images(
        modes=np.ascontiguousarray(metadata["mode"]),
        heights=metadata["height"].astype(np.int64),
        widths=metadata["width"].astype(np.int64),
        offsets=offsets,
        sizes=table["size"][rows].astype(np.int64),
    )
    _check(path, name, images.modes <= max(ImageMode), "mode", images.modes, f"is none of {list(map(int, ImageMode))}")
    _check(path, name, images.heights > 0, "height", images.heights, "is not positive")
    _check(path, name, images.widths > 0, "width", images.widths, "is not positive")
    _check(path, name, images.sizes > 0, "size", images.sizes, "is not positive")
    num_pixel_bytes = images.heights * images.widths * NUM_CHANNELS
    fits = (images.modes != ImageMode.RAW) | (images.sizes == num_pixel_bytes)
    _check(path, name, fits, "size", images.sizes, f"is not height x width x {NUM_CHANNELS}, the size of a raw image")
    for column in images:
        column.flags.writeable = False
    return images


def _check(path: Path, name: str, good: NDArray[np.bool_], what: str, values: NDArray[Any], problem: str) -> None:
    """Name the first record whose `values` are not good."""
    if not good.all():
        index = int(good.argmin())
        raise _fault(path, f"record {index}, field {name!r}: {what} {values[index]} {problem}", _DAMAGED)
