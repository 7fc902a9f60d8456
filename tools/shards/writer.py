"""Writes one shard, a file of images and labels one behind the other, with the index that DALI wants beside it."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from loaders.atomic_file import AtomicWriter, atomic_file, clear_os_errors
from loaders.errors import FastvitError
from tools.shards.format import ImageExtension, ShardFormat, ShardSample
from tools.shards.tar import TarFormat, label_digits
from tools.shards.tfrecord import TFRecordFormat

__all__ = ["MAX_IMAGE_BYTES", "MAX_KEY_LENGTH", "SHARD_FORMATS", "ShardWriter"]

MAX_KEY_LENGTH = 96  # with an extension behind it, the 100 bytes that a tar header has for a name
MAX_IMAGE_BYTES = 2**30  # tar could hold 8 GiB, a protocol buffer 2 GiB

_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")  # what every reader and DALI's index take without quotes


class ShardWriter(AtomicWriter):
    """Writes samples one after another to `path`; the bytes depend on the samples and the format alone.

    A context manager as `AtomicWriter` is. The index lies beside the shard, with `.idx` in place of the extension. The
    shard appears last: where it is, it is whole and the index is its own.

    Raises:
        FastvitError: `path` or the index is a folder or cannot be written, a shard of another format has that index, or
            no sample was written.
    """

    def __init__(self, path: Path, shard_format: ShardFormat) -> None:
        super().__init__(path)
        self.index_path = path.with_suffix(".idx")
        if self.index_path.is_dir():
            raise FastvitError(f"{self.index_path}: cannot be written: it is a folder; name a file")
        for other in (path.with_suffix(f".{name}") for name in SHARD_FORMATS):
            if other != path and other.exists():
                raise FastvitError(
                    f"{path}: cannot be written: its index would replace that of {other}; choose another name"
                )
        self._format = shard_format
        self._offset = 0
        self._keys: set[str] = set()
        self._lines: list[str] = []

    def append(self, key: str, image: bytes, extension: ImageExtension, label: int) -> None:
        """Write the next sample.

        Args:
            key: Its name in the shard, without an extension: letters, digits, `_` and `-`, in folders if need be.
            image: An image file's bytes.
            extension: What `image` is.
            label: Its class, from 0.

        Raises:
            FastvitError: The key is another sample's or has other characters or too many, the format cannot hold image
                or label, or the disk is full.
        """
        sample = ShardSample(key, image, extension, label)
        try:
            self._check(sample)
            pieces, line = self._format.encode(sample, self._offset)
        except ValueError as error:
            raise FastvitError(f"{self.path}: sample {len(self._lines)} ({key!r}): {error}") from error
        with clear_os_errors(self.path):
            self._file.writelines(pieces)
        self._offset += sum(map(len, pieces))
        self._keys.add(key)
        self._lines.append(line)

    def _check(self, sample: ShardSample) -> None:
        if len(sample.key) > MAX_KEY_LENGTH or not _KEY.fullmatch(sample.key):
            raise FastvitError(
                f"its key is not 1 to {MAX_KEY_LENGTH} ASCII letters, digits, '_' and '-', with '/' between folders; "
                "take its number as key"
            )
        if sample.key in self._keys:
            raise FastvitError("the shard has another sample of this key; keys must differ")
        if not 1 <= len(sample.image) <= MAX_IMAGE_BYTES:
            raise FastvitError(f"its image has {len(sample.image)} bytes; leave out what is not 1 to {MAX_IMAGE_BYTES}")
        if sample.label < 0:
            raise FastvitError(f"label {sample.label} is negative; number classes from 0")

    def _finish(self) -> None:
        if not self._lines:
            raise FastvitError(
                f"{self.path}: no sample was written; DALI cannot read an empty shard: write fewer shards"
            )
        self._file.write(self._format.trailer)
        _settle(self._file)  # a full disk shows before the index appears
        with atomic_file(self.index_path) as index:
            index.write(self._format.index(self._lines).encode("ascii"))
            _settle(index)
            self.path.unlink(missing_ok=True)  # an older shard must not be found beside the new index


def _tar(num_classes: int) -> ShardFormat:
    return TarFormat(label_digits(num_classes))


SHARD_FORMATS: dict[str, Callable[[int], ShardFormat]] = {"tar": _tar, "tfrecord": lambda _: TFRecordFormat()}
"""From a format's name, which is its files' extension too, and the number of classes to the format."""


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
