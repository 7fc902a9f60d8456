"""The contract that every backend keeps, so that a training loop need not know which one it has.

Sample order and crops are pure functions of (seed, epoch, index); batches are uint8 in channels_last; validation sees
every image exactly once on any number of ranks; leaving an iterator early, an error in a worker or Ctrl-C leaves
neither a hang nor a thread behind; a sample that cannot be decoded is named. `tests/loaders/test_parity.py` checks all
of it for every backend.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

# torch takes seconds to import, which `fastvit-train --help` must not wait for: it is only named here.
if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BadSample", "BadSampleError", "Batch", "ImageLoader"]


class Batch(NamedTuple):
    """One batch; valid until the next one is asked for: `.clone()` what has to live longer."""

    images: "Tensor"
    """uint8 [b, 3, h, w], channels_last strides."""
    labels: "Tensor"
    """int64 [b]."""
    index: "Tensor"  # type: ignore[assignment]  # hides tuple.index, which nobody wants of a batch
    """int64 [b], position in the dataset."""


class BadSample(NamedTuple):
    """A sample that could not be decoded."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    """Position in the dataset."""
    name: str
    """The file, or the file and the record."""
    reason: str


class BadSampleError(ValueError):
    """Raised while iterating with `on_error="raise"`; its message names the sample."""

    def __init__(self, sample: BadSample) -> None:
        super().__init__(
            f"sample {sample.index} ({sample.name}) cannot be decoded: {sample.reason}; "
            'mend it, or leave such samples out with on_error="skip"'
        )
        self.sample = sample


class ImageLoader(Protocol):
    """What every backend offers. Iterating yields one epoch; call `set_epoch` before each."""

    @property
    def skipped(self) -> Sequence[BadSample]:
        """The samples left out of this rank's batches since the last `set_epoch`, with `on_error="skip"`."""

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: Epoch number, from 0: decides order, crops and flips.
            resolution: Side of the images from now on, in pixels; unchanged when None.
            skip_batches: How many batches of the epoch to leave out at its start, without loading them.
        """

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, skipped ones included."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch that `set_epoch` chose."""

    def close(self) -> None:
        """Give back threads, processes and memory; a second call does nothing."""
