"""Sample order as a pure function of (seed, epoch, dataset size): no state, no shuffle buffer, any position in O(1).

The order never depends on the number of threads, workers or ranks. Global batch k is `order[k*G : (k+1)*G]` and every
rank takes its slice of it, so a run can stop at any batch and continue, even with another number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders.errors import FastvitError

__all__ = ["RUNS_PER_WINDOW", "RUN_LENGTH", "BatchPlan", "Order", "epoch_order"]

Order = Literal["sequential", "random", "quasi_random"]

# A quasi-random order reads runs of neighbouring records (a few MB of JPEG photos) and shuffles the samples of a window
# of runs (a few hundred MB), which is what has to fit into memory.
RUN_LENGTH = 64
RUNS_PER_WINDOW = 64

# Separates the permutation of runs and the rotation from the windows' permutations, which are numbered from 0.
_RUNS_ITEM = 1 << 63
_ROTATION_ITEM = _RUNS_ITEM + 1


def epoch_order(order: Order, *, size: int, seed: int, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    """Dataset indices at positions `start` to `stop` of an epoch.

    Args:
        order: `sequential`; `random`, a uniform-looking permutation of the whole dataset; or `quasi_random`, which
            shuffles runs of neighbouring records and then the samples within a window of runs.
        size: Number of samples in the dataset.
        seed: The run's seed.
        epoch: The epoch, from 0; every epoch has another order.
        start: First position.
        stop: One past the last position, at most `size`.

    Returns:
        int64 [stop - start]; over all positions every index in [0, size) comes exactly once.

    Raises:
        FastvitError: The positions lie outside the dataset.

    Examples:
        >>> from loaders.order import epoch_order
        >>> whole = epoch_order("random", size=1_000_000, seed=0, epoch=3, start=0, stop=1_000_000)
        >>> part = epoch_order("random", size=1_000_000, seed=0, epoch=3, start=500, stop=504)
        >>> bool((part == whole[500:504]).all())  # any part comes without what is before it
        True
        >>> epoch_order("sequential", size=10, seed=0, epoch=3, start=4, stop=7)
        array([4, 5, 6])
    """
    if not 0 <= start <= stop <= size:
        raise FastvitError(f"positions must satisfy 0 <= start <= stop <= size, got {start}, {stop}, {size}")
    positions = np.arange(start, stop, dtype=np.int64)
    if order == "sequential" or not len(positions):
        return positions
    if order == "random":
        return _native.permute(positions, size, seed, epoch)
    return _quasi_random(positions, size, seed, epoch)


def _quasi_random(positions: NDArray[np.int64], size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    window_length = RUN_LENGTH * RUNS_PER_WINDOW
    slots = np.empty_like(positions)
    for window in range(int(positions[0]) // window_length, int(positions[-1]) // window_length + 1):
        first = window * window_length
        inside = (positions >= first) & (positions < first + window_length)
        length = min(window_length, size - first)
        slots[inside] = first + _native.permute(positions[inside] - first, length, seed, epoch, window)
    # The records that fill no whole run come last; rotating the dataset makes them others every epoch.
    num_runs = size // RUN_LENGTH
    in_runs = slots < num_runs * RUN_LENGTH
    if num_runs:
        run, offset = np.divmod(slots[in_runs], RUN_LENGTH)
        slots[in_runs] = _native.permute(run, num_runs, seed, epoch, _RUNS_ITEM) * RUN_LENGTH + offset
    rotation = _native.permute(np.zeros(1, np.int64), size, seed, epoch, _ROTATION_ITEM)[0]
    order: NDArray[np.int64] = (slots + rotation) % size
    return order


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Which samples each batch of this rank holds, in every epoch.

    A sample is a number: the image's index in the dataset, plus `size` for each time that the image came before in the
    same batch, with other `repeats` than 1 (repeated augmentation, arXiv 1901.09335). Crops and flips are drawn for
    samples. An epoch has as many batches with repeats as without, of other images each time; the repeats of an image
    go to different ranks as far as there are enough of them, as in DeiT.

    Raises:
        FastvitError: `batch_size`, `rank`, `world_size` or `repeats` makes no sense, or no batch would be full with
            `drop_last`.

    Examples:
        Two ranks share each global batch of six:

        >>> from loaders.order import BatchPlan
        >>> for rank in range(2):
        ...     plan = BatchPlan(
        ...         order="sequential", size=10, seed=0, batch_size=3, drop_last=False, rank=rank, world_size=2
        ...     )
        ...     print([batch.tolist() for batch in plan.batches(epoch=0)])
        [[0, 1, 2], [6, 7]]
        [[3, 4, 5], [8, 9]]

        Each image twice: sample 10 is the second one of image 0, and goes to another rank than the first:

        >>> options = dict(order="sequential", size=10, seed=0, batch_size=3, drop_last=True, repeats=2)
        >>> for rank in range(2):
        ...     plan = BatchPlan(rank=rank, world_size=2, **options)
        ...     for batch in plan.batches(epoch=0):
        ...         print(batch.tolist(), plan.images(batch).tolist())
        [0, 1, 2] [0, 1, 2]
        [10, 11, 12] [0, 1, 2]
    """

    order: Order
    size: int
    """Number of samples in the dataset."""
    seed: int
    batch_size: int
    """Samples per rank and batch."""
    drop_last: bool
    """Leave out the last global batch where it is not full; a rank without samples in it has one batch less."""
    rank: int = 0
    world_size: int = 1
    repeats: int = 1
    """Times that each image comes in a global batch."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise FastvitError(f"batch_size must be positive, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise FastvitError(f"rank must lie in [0, world_size={self.world_size}), got {self.rank}")
        if self.drop_last and self.global_batch_size > self.size:
            raise FastvitError(
                f"batch_size must be at most the data set's {self.size} samples over {self.world_size} rank(s), "
                f"got {self.batch_size}; choose a smaller --batch-size"
            )
        samples = self.global_batch_size
        if self.repeats < 1 or samples % self.repeats:
            raise FastvitError(
                f"repeats must divide the {samples} samples of a batch over all ranks, got {self.repeats}"
            )
        if self.repeats > 1 and not self.drop_last:
            raise FastvitError(f"repeats is for training, with drop_last; without it, it must be 1, got {self.repeats}")

    @property
    def global_batch_size(self) -> int:
        """Samples per batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def num_batches(self) -> int:
        """Batches of this rank in one epoch."""
        full, rest = divmod(self.size, self.global_batch_size)
        if self.drop_last or not rest:
            return full
        start, stop = self._rank_slice(rest)
        return full + (stop > start)

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[NDArray[np.int64]]:
        """The samples of this rank's batches number `skip` and later, each int64 [b] with b <= batch_size."""
        for number in range(skip, self.num_batches):
            if self.repeats > 1:
                yield self._repeated_batch(number, epoch)
                continue
            first = number * self.global_batch_size
            start, stop = self._rank_slice(min(self.global_batch_size, self.size - first))
            yield self._order(epoch, first + start, first + stop)

    def images(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions in the dataset of these samples' images."""
        return samples % self.size if self.repeats > 1 else samples

    def _repeated_batch(self, number: int, epoch: int) -> NDArray[np.int64]:
        """This rank's slice of a global batch: all its images for the first time, then for the second, and so on."""
        num_images = self.global_batch_size // self.repeats
        images = self._order(epoch, number * num_images, (number + 1) * num_images)
        times, places = np.divmod(np.arange(*self._rank_slice(self.global_batch_size)), num_images)
        samples: NDArray[np.int64] = images[places] + times * self.size
        return samples

    def _order(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        return epoch_order(self.order, size=self.size, seed=self.seed, epoch=epoch, start=start, stop=stop)

    def _rank_slice(self, length: int) -> tuple[int, int]:
        """This rank's positions within a global batch of `length` samples."""
        return self.rank * length // self.world_size, (self.rank + 1) * length // self.world_size
