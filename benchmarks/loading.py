"""What a loader does while it is measured, in its own process: whole epochs, from memory or from the disk."""

import gc
import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.contenders import CONTENDERS
from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.page_cache import evict, files_of, resident_fraction
from benchmarks.peers.epochs import Epochs
from loaders import LoaderConfig, build_loader
from loaders.cpus import num_threads

__all__ = ["Loading", "Measurement", "measure_cold", "measure_warm"]

# Round k makes epochs k * _MOST_EPOCHS and following: all loaders see the same crops, however many epochs they make.
_MOST_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One loader's turns."""

    rounds: list[Turn]
    epochs_per_round: int
    first_batch_seconds: float
    """From building the loader to its first batch; the median where each round does so."""
    resident_fraction: float | None = None
    """Of the data that is to be on the disk alone: the largest share that was in memory when a round began."""


class Loading:
    """One loader in its own process: the work that is measured. Making it imports what the loader needs.

    Args:
        name: The contender.
        options: What it is asked for.
        data: Where it reads.
    """

    def __init__(self, name: str, options: LoaderConfig, data: Path) -> None:
        torch.set_num_threads(num_threads(options.num_workers))
        entrant = CONTENDERS[name]
        module = import_module(entrant.module)
        self._device = options.device
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # which takes seconds
        if entrant.backend is None:
            self._open = partial(module.open_epochs, data, options, **entrant.options)
        else:
            self._open = partial(_backend_epochs, entrant.backend, data, replace(options, **entrant.options))

    def open(self) -> int:
        """Build the loader."""
        self._epochs: Epochs = self._open()
        return 0

    def start_epoch(self, number: int) -> int:
        """Take the first batch of an epoch."""
        self._started = self._epochs(number)
        return self._take(next(self._started))

    def first_batch(self, *, epoch: int = 0) -> int:
        """Build the loader and take one batch of an epoch."""
        self.open()
        return self.start_epoch(epoch)

    def rest_of_epoch(self) -> int:
        """Take the batches that follow the first one."""
        return sum(map(self._take, self._started))

    def whole_epochs(self, numbers: range) -> int:
        """Take all batches of these epochs."""
        return sum(self._take(batch) for number in numbers for batch in self._epochs(number))

    def close(self) -> int:
        """Let go of the loader, and with it of all that it has mapped."""
        del self._epochs, self._started
        gc.collect()
        return 0

    def _take(self, batch: Sized) -> int:
        """Have the batch on the device; returns its number of images."""
        if self._device.type == "cuda" and isinstance(batch, Tensor):
            batch.to(self._device, non_blocking=True)
            # Not blocking, a core would spin until then, at the loader's expense.
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrived.record()
            arrived.synchronize()
        return len(batch)


def _backend_epochs(name: str, path: Path, config: LoaderConfig) -> Epochs:
    loader = build_loader(name, path, config)

    def epochs(number: int) -> Iterator[Sized]:
        loader.set_epoch(number)
        for batch in loader:
            yield batch.images

    return epochs


def measure_warm(
    contenders: Mapping[str, Contender[Loading]], *, rounds: int, round_seconds: float
) -> dict[str, Measurement]:
    """Measure whole epochs, in turns, after epochs that warm up.

    Args:
        contenders: The loaders by name.
        rounds: How many turns each has.
        round_seconds: How long a turn is to last at least: as many epochs as that takes, or 1000.
    """
    first_batches, num_epochs = {}, {}
    for name, contender in contenders.items():
        first_batches[name] = contender.run(Loading.first_batch)
        contender.run(Loading.rest_of_epoch)
        num_epochs[name] = _epochs_per_round(contender, round_seconds)

    def turn(name: str, number: int) -> Turn:
        first = number * _MOST_EPOCHS
        return contenders[name].run(partial(Loading.whole_epochs, numbers=range(first, first + num_epochs[name])))

    turns = take_turns(contenders, rounds, turn)
    return {
        name: Measurement(
            rounds=turns[name],
            epochs_per_round=num_epochs[name],
            first_batch_seconds=first_batches[name].seconds,
        )
        for name in contenders
    }


def _epochs_per_round(contender: Contender[Loading], round_seconds: float) -> int:
    """How many epochs last long enough, found by trying."""
    num_epochs = 1
    while True:
        seconds = contender.run(partial(Loading.whole_epochs, numbers=range(1, 1 + num_epochs))).seconds
        if seconds >= round_seconds or num_epochs == _MOST_EPOCHS:
            return num_epochs
        num_epochs = min(math.ceil(1.1 * num_epochs * round_seconds / seconds), _MOST_EPOCHS)


def measure_cold(
    contenders: Mapping[str, Contender[Loading]], data: Mapping[str, Path], *, rounds: int
) -> dict[str, Measurement]:
    """Measure opening a loader and an epoch, in turns; before each, the data's pages are dropped from memory.

    Args:
        contenders: The loaders by name.
        data: Where each reads.
        rounds: How many turns each has.
    """
    files = {name: files_of(path) for name, path in data.items()}
    for contender in contenders.values():
        _open_and_take(contender, epoch=0)  # it compiles, and imports what it needs
    residents: dict[str, list[float]] = {name: [] for name in contenders}
    first_batches: dict[str, list[Turn]] = {name: [] for name in contenders}

    def turn(name: str, number: int) -> Turn:
        evict(files[name])
        residents[name].append(resident_fraction(files[name]))
        first, rest = _open_and_take(contenders[name], epoch=number * _MOST_EPOCHS)
        first_batches[name].append(first)
        return Turn(
            num_images=first.num_images + rest.num_images,
            seconds=first.seconds + rest.seconds,
            cpu_seconds=first.cpu_seconds + rest.cpu_seconds,
            peak_rss_bytes=rest.peak_rss_bytes,
            peak_device_memory_bytes=rest.peak_device_memory_bytes,
            device_busy_fraction=rest.device_busy_fraction,
        )

    turns = take_turns(contenders, rounds, turn)
    return {
        name: Measurement(
            rounds=turns[name],
            epochs_per_round=1,
            first_batch_seconds=median(first.seconds for first in first_batches[name]),
            resident_fraction=max(residents[name]),
        )
        for name in contenders
    }


def _open_and_take(contender: Contender[Loading], *, epoch: int) -> tuple[Turn, Turn]:
    """The turns of the first batch and of the others; then the loader is closed, so that no page stays mapped."""
    first = contender.run(partial(Loading.first_batch, epoch=epoch))
    rest = contender.run(Loading.rest_of_epoch)
    contender.run(Loading.close)
    return first, rest
