"""The model that `benchmarks.doctor` describes: from what the parts can do alone to what the loader and the run do."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.doctor.reading import Reading
from loaders.order import Order

__all__ = ["Storage", "limiting", "loader_rate", "training_rate"]

_FITS = 0.9
"""Share of the memory for files that a data set may take so that no page of it is dropped for another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where the images lie, and how they come from there."""

    num_images: int
    bytes_per_image: float
    cache_bytes: int
    """What the page cache may hold."""
    is_mapped: bool
    """Whether the engine reads ahead of its threads."""
    order: Order
    """In which the images are read."""

    @property
    def num_bytes(self) -> float:
        """Of the whole data set."""
        return self.num_images * self.bytes_per_image

    @property
    def fits(self) -> bool:
        """Whether the page cache can hold all of it."""
        return self.num_bytes <= _FITS * self.cache_bytes

    def disk_limit(self, reading: Reading) -> float | None:
        """Images per second from the disk, epoch after epoch; None where the disk has no part in it."""
        if self.fits:
            return None
        # The pages that a pass in order leaves behind are those that the next one wants last.
        cached = 0.0 if self.order == "sequential" else self.cache_bytes / self.num_bytes
        return self._disk_rate(reading, cached)

    def first_epoch_limit(self, reading: Reading) -> float | None:
        """The same while the page cache has no more of the data set than now."""
        return self._disk_rate(reading, reading.cached_fraction)

    def _disk_rate(self, reading: Reading, cached_fraction: float) -> float | None:
        rate = reading.random_bytes_per_second if self.order == "random" else reading.runs_bytes_per_second
        return None if rate is None or cached_fraction >= 1 else rate / self.bytes_per_image / (1 - cached_fraction)


def loader_rate(decode: float, disk: float | None, copy: float | None, *, is_mapped: bool) -> float:
    """Images per second of the loader."""
    made = decode if disk is None else min(decode, disk) if is_mapped else 1 / (1 / decode + 1 / disk)
    return made if copy is None else min(made, copy)


def training_rate(loader: float, step: float, *, on_gpu: bool) -> float:
    """Images per second of a run whose step and whose loader would make so many alone."""
    return min(loader, step) if on_gpu else 1 / (1 / loader + 1 / step)


def limiting(limits: Mapping[str, float | None]) -> str:
    """What limits: the name of the smallest."""
    return min((rate, name) for name, rate in limits.items() if rate is not None)[1]
