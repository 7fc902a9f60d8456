"""FFCV's ``.beton`` format, version 2: what reader and writer share.

A file is, in this order and in little-endian byte order:

- one `HEADER_TYPE`, then one `FIELD_TYPE` for each field of a record;
- the metadata: one `metadata_type` row for each record, holding numbers themselves and a pointer for each image;
- the images' bytes. Readers that cache the file do it in pages of ``page_size`` bytes, counted from its beginning: no
  record crosses a page, so that they find it whole;
- the allocation table, up to the end of the file: one `ALLOCATION_TYPE` row for each piece of data in the pages. It
  alone tells how long a piece is.

Source: ``ffcv/types.py``, ``ffcv/memory_allocator.py`` and ``ffcv/fields`` of FFCV 1.0.2.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError

VERSION = 2
MIN_PAGE_SIZE = 1 << 21
MAX_PAGE_SIZE = 1 << 31  # the largest power of two that the header's 32 bits hold
DEFAULT_PAGE_SIZE = 1 << 23

HEADER_TYPE = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("allocation_table_offset", "<u8"),
    ]
)
FIELD_TYPE = np.dtype([("kind", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)])
MAX_NAME_BYTES = 16
ALLOCATION_TYPE = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])

IMAGE_TYPE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
MAX_SIDE = 65_535
NUM_CHANNELS = 3


class BetonError(FastvitError):
    """A ``.beton`` file that cannot be read or written; the message names the file, the fault and the remedy.

    Examples:
        >>> from loaders.beton import Beton, BetonError
        >>> try:
        ...     Beton("photos")
        ... except BetonError as error:
        ...     print(error)
        photos: a folder; name a .beton file
    """


class ImageMode(IntEnum):
    """How an image's bytes are to be understood.

    Examples:
        >>> from loaders.beton import Beton, ImageMode
        >>> bool((Beton("train.beton").modes == ImageMode.JPG).all())
        True
    """

    JPG = 0
    """A JPEG file."""
    RAW = 1
    """Pixels: uint8 [height, width, 3], RGB."""


class FieldKind(IntEnum):
    """The kinds of field that can be read and written here; the values are FFCV's.

    Examples:
        >>> from loaders.beton import FieldKind
        >>> fields = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}  # what `BetonWriter` takes
    """

    FLOAT = 0
    """float64."""
    INT = 1
    """int64."""
    RGB_IMAGE = 2


# FFCV's remaining kinds have metadata of a known size, so that files which hold them can be read past them. Kind 255,
# a user's own field, cannot: only the code that wrote it knows its size.
_POINTER_AND_SIZE = np.dtype([("ptr", "<u8"), ("size", "<u8")])
FIELD_METADATA_TYPES: dict[int, np.dtype[Any]] = {
    FieldKind.FLOAT: np.dtype("<f8"),
    FieldKind.INT: np.dtype("<i8"),
    FieldKind.RGB_IMAGE: IMAGE_TYPE,
    3: _POINTER_AND_SIZE,  # bytes
    4: np.dtype("<u8"),  # ndarray
    5: _POINTER_AND_SIZE,  # JSON
    6: np.dtype("<u8"),  # tensor
}


class EncodedImage(NamedTuple):
    """One image as it lies in the file.

    Examples:
        >>> import numpy as np
        >>> from loaders.beton import EncodedImage, ImageMode
        >>> image = EncodedImage(np.zeros((32, 48, 3), np.uint8), ImageMode.RAW, height=32, width=48)
    """

    data: bytes | bytearray | memoryview | NDArray[np.uint8]
    """The JPEG's bytes, or C-contiguous pixels (any shape of height x width x 3 bytes)."""
    mode: ImageMode
    height: int
    """In pixels, from 1 to 65,535; of a JPEG, what its header says."""
    width: int
    """In pixels, from 1 to 65,535; of a JPEG, what its header says."""


def metadata_type(fields: Mapping[str, int]) -> np.dtype[Any]:
    """The type of one record's metadata row, laid out as a C compiler would, for field names and their kinds.

    Examples:
        >>> from loaders.beton import FieldKind, metadata_type
        >>> metadata_type({"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}).itemsize
        24
    """
    return np.dtype([(name, FIELD_METADATA_TYPES[kind]) for name, kind in fields.items()], align=True)


def page_size_fault(page_size: int) -> str | None:
    """What is wrong with this page size, in bytes, or None.

    Examples:
        >>> from loaders.beton import page_size_fault
        >>> page_size_fault(1 << 23)
        >>> page_size_fault(1000)
        'page_size must be a power of two from 2097152 to 2147483648 bytes, got 1000'
    """
    if MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE and page_size & (page_size - 1) == 0:
        return None
    return f"page_size must be a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE} bytes, got {page_size}"
