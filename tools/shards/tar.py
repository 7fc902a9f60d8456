"""WebDataset's tar shards: `KEY.jpg` or `KEY.png`, then `KEY.cls` with the label in ASCII digits.

Headers are made here rather than by `tarfile`, whose bytes differ between versions of Python.

Sources: POSIX.1-1988's ustar format, https://github.com/webdataset/webdataset, and DALI's `wds2idx` for the index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from loaders.errors import FastvitError
from tools.shards.format import ShardSample

__all__ = ["TarFormat", "label_digits"]

_BLOCK = 512
_OWNER = b"0000644\0" + b"0000000\0" * 2  # mode, user, group
_TIME = b"00000000000\0"  # never the real one: the bytes depend on the samples alone
_KIND = b"0" + bytes(100) + b"ustar\00000"  # a regular file, no link; format and version
_CHECKSUM_SPACES = 8 * ord(" ")  # what its own field counts as in a checksum


def label_digits(num_classes: int) -> int:
    """How many digits every label is written with: those of the last class."""
    return len(str(num_classes - 1))


@dataclass(frozen=True, slots=True)
class TarFormat:
    """A tar shard; a `ShardFormat`.

    Labels have leading zeros up to a fixed width, so that DALI, which cannot parse numbers, can put one together from
    its digits: the sum over `(cls - 48) * [100, 10, 1]` for three.
    """

    label_digits: int
    trailer: ClassVar[bytes] = bytes(2 * _BLOCK)

    def encode(self, sample: ShardSample, offset: int) -> tuple[Sequence[bytes], str]:
        """Two members, image and label, and `EXTENSION OFFSET SIZE NAME` of both.

        Raises:
            FastvitError: The label has more digits than `label_digits`.
        """
        label = b"%0*d" % (self.label_digits, sample.label)
        if len(label) > self.label_digits:
            raise FastvitError(f"label {sample.label} has more than label_digits={self.label_digits} digits; raise it")
        image_size = len(sample.image)
        image_name, label_name = f"{sample.key}.{sample.extension}", f"{sample.key}.cls"
        padding = bytes(-image_size % _BLOCK)
        image_offset = offset + _BLOCK
        label_offset = image_offset + image_size + len(padding) + _BLOCK
        pieces = (
            _header(image_name, image_size),
            sample.image,
            padding,
            _header(label_name, len(label)),
            label.ljust(_BLOCK, b"\0"),
        )
        return pieces, (
            f"{sample.extension} {image_offset} {image_size} {image_name} "
            f"cls {label_offset} {len(label)} {label_name}\n"
        )

    def index(self, lines: Sequence[str]) -> str:
        """Put version and number of samples before the lines."""
        return f"v1.2 {len(lines)}\n{''.join(lines)}"


def _header(name: str, size: int) -> bytes:
    """A member's header block: `name` in at most 100 ASCII characters, `size` in bytes below 8 GiB."""
    start = name.encode("ascii").ljust(100, b"\0") + _OWNER + b"%011o\0" % size + _TIME
    checksum = b"%06o\0 " % (sum(start) + _CHECKSUM_SPACES + sum(_KIND))
    return (start + checksum + _KIND).ljust(_BLOCK, b"\0")
