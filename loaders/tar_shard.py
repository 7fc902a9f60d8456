"""WebDataset's tar shards, read at random without unpacking them.

A sample is an image (`.jpg`, `.png`, …) and its label, neighbours in the archive whose paths are the same up to the
first dot of the base name: `.cls` holds an integer in ASCII, or `.json` an object with an integer `label`. Opening a
shard reads headers and labels; nothing is unpacked, executed or unpickled. `loaders/native/records/tar_index` finds
samples.

Source: https://github.com/webdataset/webdataset
"""

import glob
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders.errors import FastvitError
from loaders.image_files import IMAGE_EXTENSIONS

__all__ = ["TarShard", "find_shards", "open_each"]

_INTEGER = re.compile(rb"\s*(-?[0-9]{1,18})\s*")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUM_OPENING_THREADS = 16
_DECOMPRESSORS = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip",
    ".tar.bz2": "bunzip2",
    ".tbz2": "bunzip2",
    ".tar.xz": "unxz",
    ".txz": "unxz",
    ".tar.zst": "unzstd",
    ".tzst": "unzstd",
    ".tar.lz4": "unlz4",
    ".zip": "unzip",
    ".7z": "7z x",
    ".rar": "unrar x",
}

Opened = TypeVar("Opened")


class TarShard:
    """An open shard, mapped read-only. It may be pickled, as worker processes need: they open `path` again.

    Attributes:
        path: The file.
        data: The whole mapped file, uint8 [file size], read-only.
        offsets: Where in the file each sample's image begins, int64 [num_samples].
        sizes: How many bytes each image has, int64 [num_samples].
        labels: int64 [num_samples].

    Raises:
        FastvitError: The file is missing, is no tar archive, is cut short or damaged, or a sample is not complete.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.tar_shard import TarShard
        >>> shard = TarShard(Path("shards/train-0001.tar"))
        >>> shard.labels
        array([1, 1, 1, 1, 1])
        >>> shard.member_name(0), shard.image_bytes(0)[:2]
        ('5.jpg', array([255, 216], dtype=uint8))
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = _native.map_file(os.fsencode(path))
            self._headers, self.offsets, self.sizes, is_json, label_text, label_ends = _native.tar_samples(
                self.data, image_extensions=[extension.removeprefix(".") for extension in IMAGE_EXTENSIONS]
            )
        except OSError as error:
            raise FastvitError(f"{path}: {error.strerror}; name tar shards that can be read") from error
        except ValueError as error:
            raise FastvitError(f"{path}: {error}") from error
        self.labels = self._read_labels(is_json, label_text, label_ends)
        self.check_is_whole()

    def image_bytes(self, index: int) -> NDArray[np.uint8]:
        """One image's bytes, uint8 [size]: a read-only view into the mapped file, not a copy.

        Should the file be cut short while they are in use, they turn to zeros: `check_is_whole` tells.

        Raises:
            FastvitError: The file has become shorter.
            IndexError: There is no such sample.
        """
        offset = self.offsets[index]
        self.check_is_whole()
        return self.data[offset : offset + self.sizes[index]]

    def member_name(self, index: int) -> str:
        """The path of a sample's image in the archive; its number where the file has become shorter."""
        if not _native.is_whole(self.data):
            return f"image {index}"
        name = _native.tar_member_name(self.data, int(self._headers[index]))
        return name.decode(errors="backslashreplace")

    def check_is_whole(self) -> None:
        """See to it that the file is as long as when it was opened; to be called after its bytes were used.

        Raises:
            FastvitError: It has become shorter: what was read of it may be zeros.
        """
        if not _native.is_whole(self.data):
            raise FastvitError(f"{self.path}: {_native.cut_short}; copy or write it again")

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)

    def _read_labels(self, is_json: NDArray[np.uint8], text: bytes, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        labels = np.empty(len(ends), np.int64)
        begin = 0
        for index, (end, json_label) in enumerate(zip(ends.tolist(), is_json.tolist(), strict=True)):
            label = _json_label(text[begin:end]) if json_label else _cls_label(text[begin:end])
            if label is None:
                what = '.json without an integer "label"' if json_label else ".cls that is not an integer in ASCII"
                raise FastvitError(f"{self.path}: {self.member_name(index)} has a {what}; write the shard again")
            labels[index] = label
            begin = end
        return labels


def open_each(open_file: Callable[[Path], Opened], paths: Sequence[Path]) -> list[Opened]:
    """What `open_file` makes of each path, in order, many at once: opening mostly waits for the disk.

    Raises:
        Exception: What `open_file` raised for the first path that it failed for.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.tar_shard import TarShard, find_shards, open_each
        >>> [len(shard.labels) for shard in open_each(TarShard, find_shards(Path("shards")))]
        [5, 5]
    """
    with ThreadPoolExecutor(_NUM_OPENING_THREADS) as threads:
        return list(threads.map(open_file, paths))


def find_shards(path: Path) -> list[Path]:
    """The shards that `path` names, in sorted order; none where it names something else.

    Args:
        path: A folder of `.tar` files without sub-folders (hidden entries don't count); a `.tar` file; or a pattern
            of such files, with `*`, `?`, `[...]` or WebDataset's `{0000..0146}`.

    Raises:
        FastvitError: No shard fits the pattern, one of a range is missing, or shards are compressed.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.tar_shard import find_shards
        >>> [str(shard) for shard in find_shards(Path("shards/train-{0000..0001}.tar"))]
        ['shards/train-0000.tar', 'shards/train-0001.tar']
        >>> find_shards(Path("photos"))
        []
    """
    if path.is_dir():
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        if any(entry.is_dir() for entry in entries):
            return []
        shards = sorted(entry for entry in entries if entry.suffix == ".tar")
        if not shards:
            _refuse_compressed(sorted(entries))
        return shards
    if path.suffix != ".tar":
        _refuse_compressed([path])
        return []
    if path.exists():
        return [path]
    return sorted({shard for pattern in _ranges(str(path)) for shard in _matches(pattern)})


def _refuse_compressed(paths: Sequence[Path]) -> None:
    for path in paths:
        tool = next((_DECOMPRESSORS[end] for end in _DECOMPRESSORS if path.name.lower().endswith(end)), None)
        if tool and (path.exists() or glob.glob(str(path))):
            raise FastvitError(
                f"{path}: compressed, but samples are read at random; decompress it ({tool} {path}) and name the .tar "
                "files, or the folder of images"
            )


def _ranges(pattern: str) -> Iterator[str]:
    """The pattern with each number of each `{first..last}` in its place, as wide as `first` is written."""
    found = _RANGE.search(pattern)
    if not found or int(found[1]) > int(found[2]):
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")


def _matches(pattern: str) -> list[Path]:
    matches = glob.glob(pattern)
    if not matches:
        raise FastvitError(f"{pattern}: no such file; name tar shards that there are")
    return [Path(match) for match in matches]


def _cls_label(data: bytes) -> int | None:
    found = _INTEGER.fullmatch(data)
    return int(found[1]) if found else None


def _json_label(data: bytes) -> int | None:
    try:
        label = json.loads(data)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    is_label = type(label) is int and -(2**63) <= label < 2**63
    return label if is_label else None
