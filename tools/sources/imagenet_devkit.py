"""ILSVRC2012's development kit: the classes, and which of them each validation image belongs to.

Source: readme.txt in https://image-net.org/data/ILSVRC/2012/ILSVRC2012_devkit_t12.tar.gz
"""

import gzip
import io
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from loaders.errors import FastvitError, MissingPackageError

try:
    from scipy.io import loadmat
except ImportError as error:
    raise MissingPackageError(
        f"ImageNet's development kit needs SciPy, which does not import here ({error}); install it with: "
        "pip install 'fastvit[convert]'"
    ) from error

from tools.sources.tar_members import TarMembers

__all__ = ["Devkit", "read_devkit"]

_FOLDER = "ILSVRC2012_devkit_t12"
_ARCHIVE = f"{_FOLDER}.tar.gz"
_CLASSES_FILE = "data/meta.mat"
_LABELS_FILE = "data/ILSVRC2012_validation_ground_truth.txt"

_MAX_UNPACKED_BYTES = 1 << 28  # the real kit has a hundredth of it
_WNID = re.compile("n[0-9]{8}")


class Devkit(NamedTuple):
    """What the development kit tells."""

    wnids: tuple[str, ...]
    """The classes' WordNet IDs, sorted: the position of one is its label."""
    val_wnids: list[str]
    """The WordNet ID of each validation image, by its number less one."""


def read_devkit(folder: Path) -> Devkit:
    """Read ``ILSVRC2012_devkit_t12``, the folder or the ``.tar.gz``, in `folder`.

    Raises:
        FastvitError: It is missing, incomplete or damaged.
        OSError: It cannot be read.
    """
    unpacked, packed = folder / _FOLDER, folder / _ARCHIVE
    if unpacked.is_dir():
        origin, files = unpacked, {name: unpacked / name for name in (_CLASSES_FILE, _LABELS_FILE)}
        contents = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    elif packed.is_file():
        origin, contents = packed, _unpack(packed)
    else:
        raise FastvitError(f"{packed}: no such file, nor the folder {_FOLDER}; ImageNet's {_ARCHIVE} holds the labels")
    for name in (_CLASSES_FILE, _LABELS_FILE):
        if name not in contents:
            raise FastvitError(f"{origin}: no {name} in it; expected ImageNet's {_ARCHIVE}")
    wnids = _parse_classes(contents[_CLASSES_FILE], where=f"{origin}, {_CLASSES_FILE}")
    val_wnids = _parse_labels(contents[_LABELS_FILE], wnids, where=f"{origin}, {_LABELS_FILE}")
    return Devkit(tuple(sorted(wnids.values())), val_wnids)


def _unpack(path: Path) -> dict[str, bytes]:
    """The files of the kit's archive, by their path below its folder; nothing is written."""
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_UNPACKED_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FastvitError(f"{path}: no gzip file, cut short or damaged ({error}); download it again") from error
    if len(data) > _MAX_UNPACKED_BYTES:
        raise FastvitError(f"{path}: it holds more than {_MAX_UNPACKED_BYTES} bytes; expected ImageNet's {_ARCHIVE}")
    members = TarMembers(lambda size, offset: data[offset : offset + size], begin=0, end=len(data))
    try:
        return {name.partition("/")[2]: data[offset : offset + size] for name, offset, size in members}
    except ValueError as error:
        raise FastvitError(f"{path}: {error}") from error


def _parse_classes(content: bytes, *, where: str) -> Mapping[int, str]:
    """Each class's WordNet ID by the kit's own number for it; synsets with children are no classes."""
    try:
        synsets = loadmat(io.BytesIO(content), variable_names=["synsets"])["synsets"].ravel()
        numbers, wnids, num_children = (
            [value.item() for value in synsets[field]] for field in ("ILSVRC2012_ID", "WNID", "num_children")
        )
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise FastvitError(
            f"{where}: no struct array of synsets ({error!r:.200}); it is damaged: get it again"
        ) from error
    classes = {
        number: wnid for number, wnid, children in zip(numbers, wnids, num_children, strict=True) if children == 0
    }
    if not classes or not all(isinstance(wnid, str) and _WNID.fullmatch(wnid) for wnid in classes.values()):
        raise FastvitError(f"{where}: no classes, or one whose WNID is not like n01440764; it is damaged: get it again")
    if len(set(classes.values())) < num_children.count(0):
        raise FastvitError(f"{where}: two classes of one number or of one WNID; it is damaged: get it again")
    return classes


def _parse_labels(content: bytes, wnids: Mapping[int, str], *, where: str) -> list[str]:
    lines = content.decode("ascii", "backslashreplace").split()
    for line_number, line in enumerate(lines, start=1):
        if not (line.isdecimal() and len(line) < 10 and int(line) in wnids):
            raise FastvitError(f"{where}: line {line_number} is {line[:40]!r}, not a class's number; get it again")
    return [wnids[int(line)] for line in lines]
