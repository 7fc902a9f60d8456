"""TFRecord files put together byte by byte, apart from the converter's own code."""

import struct
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

__all__ = [
    "GOOD",
    "IMAGE",
    "LABEL",
    "example",
    "feature",
    "field",
    "head",
    "masked",
    "record",
    "varint",
    "write_tfrecord",
]

_TABLE = [reduce(lambda crc, _: crc >> 1 ^ (crc & 1) * 0x82F63B78, range(8), byte) for byte in range(256)]


def masked(data: bytes) -> bytes:
    """TFRecord's checksum: a CRC-32C, byte by byte, and masked."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def head(length: int) -> bytes:
    """The first bytes of a record."""
    packed = struct.pack("<Q", length)
    return packed + masked(packed)


def record(data: bytes) -> bytes:
    """A record."""
    return head(len(data)) + data + masked(data)


def varint(value: int) -> bytes:
    """A number of a protocol buffer."""
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def field(number: int, *content: bytes) -> bytes:
    """A delimited field of a protocol buffer."""
    data = b"".join(content)
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(name: str, kind: int, *values: bytes) -> bytes:
    """An entry of an Example: a list of bytes is of kind 1, of floats 2, of integers 3."""
    return field(1, field(1, name.encode()), field(2, field(kind, *values)))


def example(image: bytes, label: int, *, names: tuple[str, str] = ("image/encoded", "image/class/label")) -> bytes:
    """An Example with one image and its label."""
    return field(1, feature(names[0], 1, field(1, image)), feature(names[1], 3, field(1, varint(label))))


IMAGE = feature("image/encoded", 1, field(1, b"jpeg"))
LABEL = feature("image/class/label", 3, field(1, b"\xac\x02"))
GOOD = field(1, IMAGE, LABEL)
"""An Example with the image `jpeg` and the label 300."""


def write_tfrecord(path: Path, samples: Iterable[tuple[bytes, int]], **names: tuple[str, str]) -> Path:
    """Write a shard of images with their labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(example(*sample, **names)) for sample in samples))
    return path
