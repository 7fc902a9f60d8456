"""TFRecord shards: a `tf.train.Example` for each image, with the names that TensorFlow's ImageNet scripts gave them.

    image/encoded      bytes: the image file
    image/class/label  int64: the class, from 0 (TensorFlow's own files of ImageNet count from 1)
    image/format       bytes: JPEG or PNG
    image/filename     bytes: the sample's key with its extension

A record is the Example's length, that number's checksum, the Example, and its checksum; all numbers are little-endian.
Of protocol buffers this needs so little that it is written here by hand. `loaders.tfrecord_shard` reads it.

Sources: https://www.tensorflow.org/tutorials/load_data/tfrecord, tensorflow/core/example/example.proto,
https://protobuf.dev/programming-guides/encoding, and DALI's `tfrecord2idx` for the index.
"""

import struct
from collections.abc import Sequence

from loaders import _native
from loaders.errors import FastvitError
from loaders.tfrecord_shard import IMAGE_FEATURES, LABEL_FEATURES
from tools.shards.format import ShardSample

__all__ = ["TFRecordFormat"]

_IMAGE, _LABEL = IMAGE_FEATURES[0].encode(), LABEL_FEATURES[0].encode()
_FORMAT, _FILENAME = b"image/format", b"image/filename"
_FORMAT_NAMES = {"jpg": b"JPEG", "png": b"PNG"}
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of a Feature
_DELIMITED = 2  # a wire type
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")


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


def _checksum(pieces: Sequence[bytes]) -> bytes:
    """The checksum of the pieces one behind the other."""
    return _CHECKSUM.pack(_native.tfrecord_checksum(list(pieces)))


# Protocol buffers: messages are in pieces, so that an image is never copied.


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
