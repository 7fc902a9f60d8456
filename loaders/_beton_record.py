"""One sample on its way into a ``.beton`` file: its values checked against the fields."""

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from loaders._beton_format import MAX_PAGE_SIZE, MAX_SIDE, NUM_CHANNELS, EncodedImage, FieldKind, ImageMode
from loaders.errors import FastvitError

Value = EncodedImage | int | float


class Record(NamedTuple):
    """One sample, checked and ready to be laid out."""

    values: list[int | float | tuple[int, int, int, int]]
    """In field order; an image as its metadata (mode, width, height, offset), the offset counted within the record."""
    payloads: list[memoryview]
    """Each image's bytes, in field order."""

    @property
    def num_bytes(self) -> int:
        """The bytes that it takes up in a page."""
        return sum(payload.nbytes for payload in self.payloads)


def check_record(fields: Mapping[str, FieldKind], values: Sequence[Value]) -> Record:
    """Check one sample's values against the fields.

    Raises:
        FastvitError: What does not suit, without the names of file and sample.
    """
    if len(values) != len(fields):
        raise FastvitError(f"{len(values)} values for the {len(fields)} fields {', '.join(fields)}")
    record = Record([], [])
    for (name, kind), value in zip(fields.items(), values, strict=True):
        try:
            if kind is not FieldKind.RGB_IMAGE:
                record.values.append(_check_number(value, kind))
                continue
            image, payload = _check_image(value)
            record.values.append((image.mode, image.width, image.height, record.num_bytes))
            record.payloads.append(payload)
        except (ValueError, TypeError) as error:
            raise FastvitError(f"field {name!r}: {error}") from error
    if record.num_bytes > MAX_PAGE_SIZE:
        raise FastvitError(
            f"its {record.num_bytes} bytes do not fit the largest page, of {MAX_PAGE_SIZE} bytes; store it smaller "
            "(fewer pixels, or JPEG instead of raw)"
        )
    return record


def _check_number(value: Value, kind: FieldKind) -> int | float:
    if kind is FieldKind.FLOAT:
        if not isinstance(value, Real):
            raise TypeError(f"expected a number, got {type(value).__name__}")
        return float(value)
    number = operator.index(value)  # type: ignore[arg-type]  # raises TypeError for what is no integer
    if not -(1 << 63) <= number < 1 << 63:
        raise FastvitError(f"{number} does not fit 64 bits")
    return number


def _check_image(value: Value) -> tuple[EncodedImage, memoryview]:
    if not isinstance(value, EncodedImage):
        raise TypeError(f"expected an EncodedImage, got {type(value).__name__}")
    for side, name in ((value.height, "height"), (value.width, "width")):
        if not 1 <= side <= MAX_SIDE:
            raise FastvitError(f"{name} {side} is not from 1 to {MAX_SIDE}, all that the format can hold; resize it")
    payload = value.data.data if isinstance(value.data, np.ndarray) else memoryview(value.data)
    if not payload.nbytes:
        raise FastvitError("the image has no bytes")
    if not payload.c_contiguous:
        raise FastvitError("the image's bytes are not contiguous; pass numpy.ascontiguousarray of them")
    payload = payload.cast("B")
    num_pixel_bytes = value.height * value.width * NUM_CHANNELS
    if ImageMode(value.mode) is ImageMode.RAW and payload.nbytes != num_pixel_bytes:
        raise FastvitError(
            f"{payload.nbytes} bytes of raw pixels where {value.height} x {value.width} x {NUM_CHANNELS} make "
            f"{num_pixel_bytes}"
        )
    return value, payload
