"""The contract that every backend keeps, so that a training loop need not know which one it has.

Sample order and crops are pure functions of (seed, epoch, index); batches are uint8 in channels_last; validation sees
every image exactly once on any number of ranks; as many batches come as were planned, whatever is left out of them, so
that ranks stay together; leaving an iterator early, an error in a worker or Ctrl-C leaves
neither a hang nor a thread behind; a sample that cannot be decoded is named. `tests/loaders/test_parity.py` checks all
of it for every backend.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from loaders.errors import FastvitError

# torch takes seconds to import, which `fastvit-train --help` must not wait for: it is only named here.
if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BadSample", "BadSampleError", "Batch", "ImageLoader", "SaysWhatItReads"]


class Batch(NamedTuple):
    """One batch; valid until the next one is asked for: `.clone()` what has to live longer.

    On a CUDA device it is there for what comes later in the stream that is current when it is asked for, and may be
    overwritten by what comes later in the stream in which the next one is asked for.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig, build_loader
        >>> config = LoaderConfig(batch_size=4, resolution=64, crop="whole", order="sequential", drop_last=True)
        >>> loader = build_loader("native", Path("train.beton"), config)
        >>> batch = next(iter(loader))
        >>> batch.images.shape, batch.images.dtype
        (torch.Size([4, 3, 64, 64]), torch.uint8)
        >>> batch.labels, batch.index
        (tensor([0, 0, 0, 0]), tensor([0, 1, 2, 3]))
        >>> kept = [part.clone() for part in batch]  # the loader writes its next batches into the same memory
        >>> loader.close()
    """

    images: "Tensor"
    """uint8 [b, 3, h, w], channels_last strides; b may be 0 with `on_error="skip"`."""
    labels: "Tensor"
    """int64 [b], the numbers of the classes."""
    index: "Tensor"  # type: ignore[assignment]  # hides tuple.index, which nobody wants of a batch
    """int64 [b], position in the dataset."""


class BadSample(NamedTuple):
    """A sample that could not be decoded: what `ImageLoader.skipped` lists.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig, build_loader
        >>> options = dict(resolution=64, crop="whole", order="sequential", drop_last=False, on_error="skip")
        >>> loader = build_loader("native", Path("damaged.beton"), LoaderConfig(batch_size=10, **options))
        >>> [len(batch.index) for batch in loader]
        [9]
        >>> for sample in loader.skipped:
        ...     print(sample.index, sample.name, sample.reason, sep=" | ")
        9 | record 9 of damaged.beton | ...
        >>> loader.close()
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    """Position in the dataset."""
    name: str
    """The file, or the file and the record."""
    reason: str


class BadSampleError(FastvitError):
    """Raised while iterating with `on_error="raise"`; its message names the sample.

    Attributes:
        sample: The `BadSample`.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import BadSampleError, LoaderConfig, build_loader
        >>> config = LoaderConfig(batch_size=4, resolution=64, crop="whole", order="sequential", drop_last=False)
        >>> loader = build_loader("native", Path("damaged.beton"), config)
        >>> try:
        ...     for batch in loader:
        ...         pass
        ... except BadSampleError as error:
        ...     print(error.sample.name)
        record 9 of damaged.beton
        >>> loader.close()
    """

    def __init__(
        self, sample: BadSample, *, remedy: str = 'fix it, or leave such samples out with on_error="skip"'
    ) -> None:
        super().__init__(f"sample {sample.index} ({sample.name}) cannot be decoded: {sample.reason}; {remedy}")
        self.sample = sample


class ImageLoader(Protocol):
    """What every backend offers. Iterating yields one epoch; call `set_epoch` before each.

    Use it from one thread and with one iterator at a time.

    Examples:
        Continue in the middle of epoch 3, at another resolution:

        >>> from pathlib import Path
        >>> from loaders import ImageLoader, LoaderConfig, build_loader
        >>> config = LoaderConfig(batch_size=2, resolution=64, crop="random_resized", order="random", drop_last=True)
        >>> loader: ImageLoader = build_loader("native", Path("train.beton"), config)
        >>> len(loader)
        5
        >>> loader.set_epoch(3, resolution=96, skip_batches=2)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(2, 3, 96, 96), (2, 3, 96, 96), (2, 3, 96, 96)]
        >>> loader.skipped
        []
        >>> loader.close()
    """

    @property
    def skipped(self) -> Sequence[BadSample]:
        """The samples left out of this rank's batches since the last `set_epoch`, with `on_error="skip"`."""

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: Epoch number, from 0: decides order, crops and flips.
            resolution: Side of the images from now on, in pixels; unchanged when None.
            skip_batches: How many batches of the epoch to leave out at its start, without loading them.

        Raises:
            FastvitError: The resolution does not suit the other options.
        """

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, skipped ones included."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch that `set_epoch` chose: exactly those that are planned.

        With `on_error="skip"` a batch has the samples that could be decoded, in the planned order: fewer than
        `batch_size`, or none at all.

        Raises:
            BadSampleError: A sample cannot be decoded, with `on_error="raise"`.
            FastvitError: The loader is closed.
        """

    def close(self) -> None:
        """Give back threads, processes and memory; a second call does nothing.

        An iterator that is still held raises FastvitError when it is asked for its next batch.
        """


@runtime_checkable
class SaysWhatItReads(Protocol):
    """A loader that can tell which samples it is at, for whoever waits for a batch that does not come.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig, build_loader
        >>> from loaders.contract import SaysWhatItReads
        >>> config = LoaderConfig(batch_size=2, resolution=64, crop="whole", order="sequential", drop_last=False)
        >>> loader = build_loader("native", Path("photos"), config)
        >>> isinstance(loader, SaysWhatItReads)
        True
        >>> loader.at_work()
        []
        >>> loader.close()
    """

    def at_work(self) -> list[tuple[str, float]]:
        """The names of the samples that are being made, and for how many seconds each was seen there.

        The time begins when one call finds a sample that the call before did not. May be called from any thread.
        """
