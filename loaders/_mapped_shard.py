"""What all shards are: files that hold many images with their labels, mapped and read at random."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders.errors import FastvitError


class ShardTables(NamedTuple):
    """Where the images of a shard lie, and their labels: int64 [num_samples] each."""

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]


class MappedShard(ABC):
    """An open shard of any kind; `TarShard` says what it has and what may be wrong with it."""

    kind: ClassVar[str]
    """What such a shard is called in messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = _native.map_file(os.fsencode(path))
            self.offsets, self.sizes, self.labels = self._find_samples()
        except OSError as error:
            raise FastvitError(f"{path}: {error.strerror}; name {self.kind} shards that can be read") from error
        except ValueError as error:
            raise FastvitError(f"{path}: {error}") from error
        self.check_is_whole()

    @abstractmethod
    def _find_samples(self) -> ShardTables:
        """Find the samples in `data`.

        Raises:
            ValueError: The shard is damaged; the message doesn't name it.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a sample in a message."""

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

    def check_is_whole(self) -> None:
        """See to it that the file is as long as when it was opened; to be called after its bytes were used.

        Raises:
            FastvitError: It has become shorter: what was read of it may be zeros.
        """
        if not _native.is_whole(self.data):
            raise FastvitError(f"{self.path}: {_native.cut_short}; copy or write it again")

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)
