"""TFRecord shards: a `tf.train.Example` for each image, with the names that TensorFlow's ImageNet scripts gave them.

    image/encoded      bytes: the image file
    image/class/label  int64: the class, from 0 (TensorFlow's own files of ImageNet count from 1)
    image/format       bytes: JPEG or PNG
    image/filename     bytes: the sample's key with its extension

A record is the Example's length, that number's checksum, the Example, and its checksum; all numbers are little-endian.
Of protocol buffers this needs so little that it is written and read here by hand.

Sources: https://www.tensorflow.org/tutorials/load_data/tfrecord, tensorflow/core/example/example.proto,
https://protobuf.dev/programming-guides/encoding, and DALI's `tfrecord2idx` for the index.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders.errors import FastvitError, MissingPackageError
from tools.shards.format import ShardSample

try:
    import google_crc32c
except ImportError as error:
    raise MissingPackageError(
        "TFRecord shards need google-crc32c, which is not installed; install it with: pip install 'fastvit[convert]'"
    ) from error

__all__ = ["TFRecordFormat", "TFRecordShard"]

_IMAGE, _LABEL, _FORMAT, _FILENAME = b"image/encoded", b"image/class/label", b"image/format", b"image/filename"
_FORMAT_NAMES = {"jpg": b"JPEG", "png": b"PNG"}
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of a Feature
_VARINT, _DELIMITED = 0, 2  # wire types
_FIXED_SIZES = {1: 8, 5: 4}  # the others', in bytes
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEAD_SIZE = _LENGTH.size + _CHECKSUM.size


class TFRecordFormat:
    """A TFRecord shard; a `ShardFormat`."""

    trailer = b""

    def encode(self, sample: ShardSample, offset: int) -> tuple[Sequence[bytes], str]:
        """One record, and `OFFSET SIZE` of it.

        Raises:
            FastvitError: The label does not fit into an int64.
        """
        if sample.label >= 2**63:
            raise FastvitError(f"label {sample.label} does not fit into an int64; number classes from 0")
        features = (
            *_feature(_LABEL, _INT64_LIST, _varint(sample.label)),
            *_feature(_FORMAT, _BYTES_LIST, _FORMAT_NAMES[sample.extension]),
            *_feature(_FILENAME, _BYTES_LIST, f"{sample.key}.{sample.extension}".encode()),
            *_feature(_IMAGE, _BYTES_LIST, sample.image),
        )
        example = _field(1, *features)
        length = _LENGTH.pack(sum(map(len, example)))
        pieces = (length, _checksum([length]), *example, _checksum(example))
        return pieces, f"{offset} {sum(map(len, pieces))}\n"

    def index(self, lines: Sequence[str]) -> str:
        """Put the lines together."""
        return "".join(lines)


class TFRecordShard:
    """An open shard that `TFRecordFormat` wrote, mapped read-only; every length and both checksums of each record hold.

    Attributes:
        path: The file.
        labels: int64 [num_records].
        sizes: How many bytes each image has, int64 [num_records].

    Raises:
        FastvitError: The file cannot be read, is cut short, a checksum is wrong, or a record has no image or label; the
            message names file and record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = _native.map_file(os.fsencode(path))
        except OSError as error:
            raise FastvitError(f"{path}: cannot be read: {error.strerror}; name a file that can be read") from error
        data = self._data.data
        self._images: list[memoryview] = []
        labels: list[int] = []
        offset = 0
        while offset < len(data):
            try:
                example, end = _read_record(data, offset)
                image, label = _parse_example(example)
            except ValueError as error:
                number = len(labels)
                raise FastvitError(
                    f"{path}: record {number} at byte {offset}: {error}; write the shard again"
                ) from error
            self._images.append(image)
            labels.append(label)
            offset = end
        self.labels = np.array(labels, np.int64)
        self.sizes = np.array([len(image) for image in self._images], np.int64)
        self.check_is_whole()

    def image_bytes(self, index: int) -> NDArray[np.uint8]:
        """One image file's bytes, uint8 [size]: a read-only view into the mapped file.

        Should the file be cut short while they are in use, they turn to zeros: `check_is_whole` tells.

        Raises:
            FastvitError: The file has become shorter.
        """
        self.check_is_whole()
        return np.frombuffer(self._images[index], np.uint8)

    def check_is_whole(self) -> None:
        """See to it that the file is as long as when it was opened; to be called after its bytes were used.

        Raises:
            FastvitError: It has become shorter: what was read of it may be zeros.
        """
        if not _native.is_whole(self._data):
            raise FastvitError(f"{self.path}: {_native.cut_short}; copy or write it again")


def _read_record(data: memoryview, offset: int) -> tuple[memoryview, int]:
    """The Example of the record at `offset`, and where the record ends."""
    head = bytes(data[offset : offset + _HEAD_SIZE])
    if len(head) < _HEAD_SIZE:
        raise FastvitError(f"{len(head)} bytes are left of its head's {_HEAD_SIZE}: it is cut short")
    length_bytes = head[: _LENGTH.size]
    if head[_LENGTH.size :] != _checksum([length_bytes]):
        raise FastvitError("the checksum of its length is wrong: it is damaged")
    (length,) = _LENGTH.unpack(length_bytes)
    begin = offset + _HEAD_SIZE
    num_left = len(data) - begin - _CHECKSUM.size
    if length > num_left:
        raise FastvitError(f"{max(num_left, 0)} bytes are left of its {length}: it is cut short")
    example, end = data[begin : begin + length], begin + length + _CHECKSUM.size
    if data[begin + length : end] != _checksum([bytes(example)]):
        raise FastvitError("the checksum of its data is wrong: it is damaged")
    return example, end


def _checksum(pieces: Iterable[bytes]) -> bytes:
    """TFRecord's masked CRC-32C of the pieces one behind the other."""
    crc: int = reduce(google_crc32c.extend, pieces, 0)
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# Writing protocol buffers: messages are in pieces, so that an image is never copied.


def _feature(name: bytes, kind: int, value: bytes) -> Sequence[bytes]:
    """An entry of Features, whose list has one value."""
    return _field(1, *_field(1, name), *_field(2, *_field(kind, *_field(1, value))))


def _field(number: int, *content: bytes) -> Sequence[bytes]:
    return _varint(number << 3 | _DELIMITED), _varint(sum(map(len, content))), *content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# Reading them


def _parse_example(example: memoryview) -> tuple[memoryview, int]:
    entries = [entry for features in _contents(example, 1) for entry in _contents(features, 1)]
    lists = {bytes(_only(entry, 1)): _only(entry, 2) for entry in entries}
    missing = {_IMAGE, _LABEL} - lists.keys()
    if missing:
        raise FastvitError(f"it has no {' and no '.join(sorted(name.decode() for name in missing))}")
    image = _only(_only(lists[_IMAGE], _BYTES_LIST), 1)
    label, end = _read_varint(packed := _only(_only(lists[_LABEL], _INT64_LIST), 1), 0)
    if end != len(packed) or label >= 2**63:
        raise FastvitError(f"its {_LABEL.decode()} is not one number from 0")
    return image, label


def _only(message: memoryview, number: int) -> memoryview:
    contents = _contents(message, number)
    if len(contents) != 1:
        raise FastvitError(f"its Example has {len(contents)} values in field {number} of a message, where one belongs")
    return contents[0]


def _contents(message: memoryview, number: int) -> list[memoryview]:
    """What the message's delimited fields of this number contain, as views."""
    found = []
    offset = 0
    while offset < len(message):
        tag, offset = _read_varint(message, offset)
        if tag & 7 == _VARINT:
            _, end = _read_varint(message, offset)
        elif tag & 7 == _DELIMITED:
            size, offset = _read_varint(message, offset)
            end = offset + size
        elif tag & 7 in _FIXED_SIZES:
            end = offset + _FIXED_SIZES[tag & 7]
        else:
            raise FastvitError(f"its Example has a field of the unknown wire type {tag & 7}")
        if end > len(message):
            raise FastvitError("its Example has a field that does not end in it")
        if tag == number << 3 | _DELIMITED:
            found.append(message[offset:end])
        offset = end
    return found


def _read_varint(message: memoryview, offset: int) -> tuple[int, int]:
    """The number at `offset`, of at most 64 bits, and where it ends."""
    value = 0
    for index, byte in enumerate(message[offset : offset + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte <= 0x7F and value < 2**64:
            return value, offset + index + 1
    raise FastvitError("its Example has a number that does not end")
