"""The layouts in which CIFAR-10 is found, and how a batch of each becomes the official binary file.

Nothing here is ever unpickled or executed.
"""

import json
import pickletools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.sources.cifar10 import IMAGE_BYTES, TEST_BATCHES, TRAIN_BATCHES, Cifar10Error, Cifar10Release

__all__ = ["LAYOUTS", "Layout"]

_PICKLED_INTS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_MIRROR_LABELS = {TRAIN_BATCHES: "train_lables.json", TEST_BATCHES: "test_lables.json"}  # spelt so in the package


def _read_binary(path: Path, release: Cifar10Release) -> bytes:
    if path.stat().st_size != release.file_bytes:
        raise Cifar10Error(f"{path.name}: {path.stat().st_size} bytes, expected {release.file_bytes}")
    return path.read_bytes()


def _read_pickle(path: Path, release: Cifar10Release) -> bytes:
    """Take pixels and labels out of a pickle by reading its opcodes; nothing in it is executed.

    The pixels are the string of the right length, whatever the protocol calls a string; the labels are the integers
    between the string "labels" and the next string.
    """
    pixels, labels, in_labels = b"", list[int](), False
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if isinstance(argument, (str, bytes, bytearray)):
                text = argument.encode("latin-1", "replace") if isinstance(argument, str) else bytes(argument)
                if text == b"latin1":  # Python 3 writes bytes as a call, encode("labels", "latin1"), up to protocol 2
                    continue
                in_labels = text == b"labels"
                labels = [] if in_labels else labels
                pixels = text if len(text) == release.num_records * IMAGE_BYTES else pixels
            elif in_labels and opcode.name in _PICKLED_INTS and isinstance(argument, int):
                labels.append(argument)
    except ValueError as error:
        raise Cifar10Error(f"{path.name}: not a readable pickle ({error})") from error
    if not pixels:
        expected = release.num_records * IMAGE_BYTES
        raise Cifar10Error(f"{path.name}: not a batch of CIFAR-10, for it holds no string of {expected} bytes")
    return _records(path, labels, np.frombuffer(pixels, np.uint8).reshape(-1, IMAGE_BYTES))


def _read_png(path: Path, release: Cifar10Release) -> bytes:
    """Read a batch of the npm package: a picture with one image per row, and labels in JSON beside it."""
    batches = TRAIN_BATCHES if path.stem in TRAIN_BATCHES else TEST_BATCHES
    labels_path = path.with_name(_MIRROR_LABELS[batches])
    expected = ("RGB", (IMAGE_BYTES // 3, release.num_records))
    try:
        labels = json.loads(labels_path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Cifar10Error(f"{labels_path.name}: not readable JSON ({error})") from error
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            found = (picture.mode, picture.size)
            pixels = np.asarray(picture) if found == expected else None  # the header is checked before decoding
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        raise Cifar10Error(f"{path.name}: not a readable PNG ({error})") from error
    if pixels is None:
        raise Cifar10Error(f"{path.name}: the picture is {found}, expected {expected}")
    start = batches.index(path.stem) * release.num_records
    batch_labels = labels[start : start + release.num_records] if isinstance(labels, list) else []
    return _records(path, batch_labels, pixels.transpose(0, 2, 1).reshape(-1, IMAGE_BYTES))


def _records(path: Path, labels: list[int], planes: NDArray[np.uint8]) -> bytes:
    """Put each label before its image's red, green and blue planes (uint8 [n, 3072])."""
    if len(labels) != len(planes) or not set(map(type, labels)) == {int} or not 0 <= min(labels) <= max(labels) <= 9:
        raise Cifar10Error(f"{path.name}: expected {len(planes)} labels from 0 to 9, found {len(labels)} entries")
    return np.column_stack([np.array(labels, np.uint8), planes]).tobytes()


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a folder holds the six batches, and how to read one."""

    suffix: str
    """What a batch's name gets to become its file's."""
    read: Callable[[Path, Cifar10Release], bytes]
    """Turns a batch's file into the bytes of its binary file."""
    beside: tuple[str, ...] = ()
    """Further files that the reader needs in the same folder."""

    @property
    def names(self) -> tuple[str, ...]:
        """The files of a complete folder."""
        return (*(batch + self.suffix for batch in TRAIN_BATCHES + TEST_BATCHES), *self.beside)

    def missing_in(self, folder: Path) -> list[str]:
        """The names of the files that `folder` lacks."""
        return [name for name in self.names if not (folder / name).is_file()]


LAYOUTS = (
    Layout(suffix=".bin", read=_read_binary),
    Layout(suffix="", read=_read_pickle),
    Layout(suffix=".png", read=_read_png, beside=tuple(_MIRROR_LABELS.values())),
)
