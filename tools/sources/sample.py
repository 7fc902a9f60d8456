"""What every source is: a sequence of samples that load only when asked to."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageSample", "ImageSource", "left_out_of"]


class ImageSample(Protocol):
    """One labelled image; ``str()`` of it says where it is, for messages."""

    @property
    def label(self) -> int:
        """The index of its class in the source's `class_names`."""

    @property
    def name(self) -> str:
        """Where it is within its source: unique there, and the same on every machine. Not a path to open."""

    def load(self) -> bytes | NDArray[np.uint8]:
        """Fetch an image file's bytes, or pixels: uint8 [height, width, 3], RGB. Safe to call from many threads.

        Raises:
            FastvitError: The source is damaged there; the message says how.
            OSError: It cannot be read.
        """


class ImageSource(Protocol):
    """A data set's samples, in the source's own order."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, by label."""

    @property
    def random_access(self) -> bool:
        """Whether samples load as fast in any order; else only neighbours after one another do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageSample: ...


@runtime_checkable
class _LeavesOut(Protocol):
    @property
    def left_out(self) -> Mapping[str, int]: ...


def left_out_of(source: ImageSource) -> dict[str, int]:
    """How many files a source leaves out that are no images by their names, by their extension."""
    return dict(source.left_out) if isinstance(source, _LeavesOut) else {}
