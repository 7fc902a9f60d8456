"""Shards, the many files of one dataset: which paths name them, and opening them."""

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from loaders._mapped_shard import MappedShard
from loaders.errors import FastvitError
from loaders.tar_shard import TarShard
from loaders.tfrecord_shard import TFRecordShard

__all__ = ["find_shards", "open_each", "open_shard", "shard_kind"]

# TensorFlow's own have their number as the only ending, or TensorFlow Datasets' before it.
_TFRECORD = re.compile(r".+\.tfrecords?|([^.]+|.+\.tfrecords?)-[0-9]+-of-[0-9]+")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUM_OPENING_THREADS = 16
_DECOMPRESSORS = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd", ".lz4": "unlz4"}
_UNPACKERS = {
    ".tgz": "gunzip",
    ".tbz2": "bunzip2",
    ".txz": "unxz",
    ".tzst": "unzstd",
    ".zip": "unzip",
    ".7z": "7z x",
    ".rar": "unrar x",
}

Opened = TypeVar("Opened")


def shard_kind(path: Path) -> type[MappedShard] | None:
    """What kind of shard a file is by its name alone; None where it is none.

    TFRecord shards are called `train-0001.tfrecord`, `train-00001-of-01024` or `train.tfrecord-00001-of-01024`.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.shards import shard_kind
        >>> for name in ("train-0001.tar", "train-00001-of-01024", "train.beton"):
        ...     print(shard_kind(Path(name)))
        <class 'loaders.tar_shard.TarShard'>
        <class 'loaders.tfrecord_shard.TFRecordShard'>
        None
    """
    if path.suffix == ".tar":
        return TarShard
    return TFRecordShard if _TFRECORD.fullmatch(path.name) else None


def open_shard(path: Path) -> MappedShard:
    """Open a shard of the kind that its name says.

    Raises:
        FastvitError: Its name is none of a shard's, or it is missing or damaged.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.shards import open_shard
        >>> open_shard(Path("shards/train-0001.tar")).labels
        array([1, 1, 1, 1, 1])
    """
    kind = shard_kind(path)
    if kind is None:
        raise FastvitError(f"{path}: no name of a shard; call it .tar or .tfrecord")
    return kind(path)


def open_each(open_file: Callable[[Path], Opened], paths: Sequence[Path]) -> list[Opened]:
    """What `open_file` makes of each path, in order, many at once: opening mostly waits for the disk.

    Raises:
        Exception: What `open_file` raised for the first path that it failed for.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.shards import find_shards, open_each, open_shard
        >>> [len(shard.labels) for shard in open_each(open_shard, find_shards(Path("shards")))]
        [5, 5]
    """
    with ThreadPoolExecutor(_NUM_OPENING_THREADS) as threads:
        return list(threads.map(open_file, paths))


def find_shards(path: Path) -> list[Path]:
    """The shards that `path` names, in sorted order; none where it names something else.

    Args:
        path: A folder of tar or TFRecord shards without sub-folders (hidden entries don't count); a shard; or a pattern
            of them, with `*`, `?`, `[...]` or WebDataset's `{0000..0146}`. `shard_kind` says what shards are called;
            other files in a folder don't count.

    Raises:
        FastvitError: No shard fits the pattern, one of a range is missing, shards are compressed, or some are tar and
            some are TFRecord.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.shards import find_shards
        >>> [str(shard) for shard in find_shards(Path("shards/train-{0000..0001}.tar"))]
        ['shards/train-0000.tar', 'shards/train-0001.tar']
        >>> [str(shard) for shard in find_shards(Path("records/train-*"))]
        ['records/train-00000-of-00002', 'records/train-00001-of-00002']
        >>> find_shards(Path("photos"))
        []
    """
    files = _named_files(path)
    shards = [file for file in files if shard_kind(file)]
    if not shards:
        _refuse_compressed(files)
    if len(set(map(shard_kind, shards))) > 1:
        raise FastvitError(f"{path}: tar and TFRecord shards; name those of one kind, with a pattern such as *.tar")
    return shards


def _named_files(path: Path) -> list[Path]:
    """The files, in sorted order, of which some may be shards."""
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        return [] if any(entry.is_dir() for entry in entries) else entries
    if path.exists():
        return [path]
    if shard_kind(path) or _RANGE.search(str(path)):
        return sorted({match for pattern in _ranges(str(path)) for match in _matches(pattern)})
    return sorted(map(Path, glob.glob(str(path))))


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
        kind = shard_kind(Path(pattern))
        raise FastvitError(f"{pattern}: no such file; name {f'{kind.kind} ' if kind else ''}shards that there are")
    return [Path(match) for match in matches]


def _refuse_compressed(files: Sequence[Path]) -> None:
    for file in files:
        name = Path(file.name.lower())
        tool = (_DECOMPRESSORS if shard_kind(name.with_suffix("")) else _UNPACKERS).get(name.suffix)
        if tool:
            raise FastvitError(
                f"{file}: compressed, but samples are read at random; decompress it ({tool} {file}) and name the "
                "shards, or the folder of images"
            )
