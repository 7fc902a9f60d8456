"""Subsets of a data set as text: which of its images, by label and name, wherever the data set lies.

A manifest is a header of lines that begin with ``# `` and then one line for each image, in the order of its source:
``LABEL<tab>NAME``, the name escaped (`escape`). Text is UTF-8; bytes of names that are not stay as they are.

    # fastvit manifest 1
    # source: folder, 1281167 images in 1000 classes, sha256 HEX     (of the same lines of all of the source's images)
    # rule: fraction 2/3 of each class, largest remainders
    # seed: 0
    # images: 854111
    # sha256: HEX                                                    (of the lines that follow)
    0<tab>n01440764/n01440764_10026.JPEG
"""

import hashlib
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from loaders.atomic_file import atomic_file, clear_os_errors, remove_leftovers
from loaders.errors import FastvitError

__all__ = [
    "REMEDY",
    "Manifest",
    "escape",
    "lines_sha256",
    "manifest_line",
    "read_manifest",
    "unescape",
    "write_manifest",
]

_TITLE = "fastvit manifest 1"
_KEYS = ("source", "rule", "seed", "images", "sha256")
_LINE = re.compile(r"([0-9]{1,18})\t([^\t\n]+)\n")
_SEED = re.compile("[0-9]{1,20}")
_MAX_HEADER_LINE = 4096

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {escaped: character for character, escaped in _ESCAPES.items()}
_TABLE = str.maketrans(_ESCAPES)
_ESCAPED = re.compile(r"\\.?", re.DOTALL)

REMEDY = "copy it again, or make it again with fastvit-data make-subset"


def escape(text: str) -> str:
    r"""Write backslash, tab, newline and carriage return as ``\\``, ``\t``, ``\n`` and ``\r``."""
    return text.translate(_TABLE)


def unescape(text: str) -> str:
    """Undo `escape`.

    Raises:
        FastvitError: A backslash stands before something else.
    """
    if "\\" not in text:
        return text
    try:
        return _ESCAPED.sub(lambda found: _UNESCAPES[found[0]], text)
    except KeyError as error:
        raise FastvitError(f"{text!r} has a backslash that escapes nothing") from error


def manifest_line(label: int, name: str) -> bytes:
    """The line of an image, its newline included."""
    return f"{label}\t{escape(name)}\n".encode("utf-8", "surrogateescape")


def lines_sha256(labels: NDArray[np.int64], names: Sequence[str]) -> str:
    """The SHA-256, in hexadecimal, of the lines of images with these labels, int64 [n], and names."""
    digest = hashlib.sha256()
    for label, name in zip(labels.tolist(), names, strict=True):
        digest.update(manifest_line(label, name))
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Manifest:
    """Some of a source's images."""

    path: Path
    """Where the manifest lies, or is to lie."""
    source: str
    """What it is a part of: the data set's kind, its numbers of images and classes, and the SHA-256 of its lines."""
    rule: str
    """How the images were chosen."""
    seed: int
    """Decided which ones."""
    labels: NDArray[np.int64]
    """Each image's label, int64 [n]."""
    names: Sequence[str]
    """Each image's name in its source, in the order of the source."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of its lines, in hexadecimal."""
        return lines_sha256(self.labels, self.names)


def write_manifest(manifest: Manifest) -> None:
    """Write a manifest to its path, all at once; what killed processes left half written of it goes.

    Raises:
        FastvitError: It cannot be written; nothing is left behind.
    """
    values = (manifest.source, manifest.rule, manifest.seed, len(manifest.names), manifest.sha256)
    header = [_TITLE, *(f"{key}: {value}" for key, value in zip(_KEYS, values, strict=True))]
    remove_leftovers(manifest.path)
    with clear_os_errors(manifest.path), atomic_file(manifest.path) as file:
        file.write("".join(f"# {line}\n" for line in header).encode())
        file.writelines(map(manifest_line, manifest.labels.tolist(), manifest.names))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and check it against its own header.

    Raises:
        FastvitError: The file cannot be read, is no manifest, is damaged or was changed.
    """
    try:
        with path.open("rb") as file:
            values = _read_header(path, file)
            labels, names, digest = _read_lines(path, file)
    except OSError as error:
        raise FastvitError(f"{path}: {error.strerror}; name a manifest that fastvit-data make-subset wrote") from error
    if digest != values["sha256"]:
        raise FastvitError(f"{path}: the sha256 of its lines is {digest}, its header says {values['sha256']}; {REMEDY}")
    if str(len(names)) != values["images"]:
        raise FastvitError(f"{path}: it has {len(names)} images, its header says {values['images']}; {REMEDY}")
    return Manifest(
        path=path,
        source=values["source"],
        rule=values["rule"],
        seed=int(values["seed"]),
        labels=labels,
        names=names,
    )


def _read_header(path: Path, file: BinaryIO) -> dict[str, str]:
    """The values of the header, by key."""
    if (title := file.readline(_MAX_HEADER_LINE)) != f"# {_TITLE}\n".encode():
        raise FastvitError(f"{path}: it begins with {title[:80]!r}, not '# {_TITLE}'; name a manifest, or {REMEDY}")
    values: dict[str, str] = {}
    for key in _KEYS:
        line = file.readline(_MAX_HEADER_LINE).decode("utf-8", "backslashreplace")
        if not line.startswith(f"# {key}: ") or not line.endswith("\n"):
            raise FastvitError(f"{path}: line {len(values) + 2} is {line[:80]!r}, expected '# {key}: …'; {REMEDY}")
        values[key] = line.removeprefix(f"# {key}: ").removesuffix("\n")
    if not _SEED.fullmatch(values["seed"]):
        raise FastvitError(f"{path}: its seed is {values['seed'][:80]!r}, no number; {REMEDY}")
    return values


def _read_lines(path: Path, file: BinaryIO) -> tuple[NDArray[np.int64], list[str], str]:
    """The labels and names of the lines after the header, and the lines' SHA-256."""
    labels, names, digest = array("q"), list[str](), hashlib.sha256()
    for number, line in enumerate(file, start=len(_KEYS) + 2):
        digest.update(line)
        try:
            label, name = _parse(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise FastvitError(f"{path}: line {number}: {error}; {REMEDY}") from error
        labels.append(label)
        names.append(name)
    return np.array(labels, np.int64), names, digest.hexdigest()


def _parse(line: str) -> tuple[int, str]:
    if not (parts := _LINE.fullmatch(line)):
        raise FastvitError(f"{line[:80]!r} is not LABEL<tab>NAME")
    return int(parts[1]), unescape(parts[2])
