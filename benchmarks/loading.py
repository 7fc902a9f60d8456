"""What a loader does while it is measured, in its own process: whole epochs, from memory or from the disk."""

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders import CONTENDERS
from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.page_cache import evict, files_of, resident_fraction
from benchmarks.peers.epochs import Epochs
from loaders import LoaderConfig, build_loader
from loaders.cpus import num_threads

__all__ = ["Loading", "Measurement", "measure_cold", "measure_one_epoch", "measure_warm"]

# Round k makes epochs k * _MOST_EPOCHS and following: all loaders see the same crops, however many epochs they make.
_MOST_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One loader's turns."""

    rounds: list[Turn]
    epochs_per_round: int
    open_seconds: float
    """Building the loader; the median where each round does so."""
    first_batch_seconds: float
    """From the beginning of that to the first batch."""
    anonymous_rss_bytes: int
    """Memory that is no part of a file, after the last round."""
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
        self._number = number
        self._started = self._epochs(number)
        return self._take(next(self._started))

    def rest_of_epoch(self) -> int:
        """Take the batches that follow the first one."""
        return sum(map(self._take, self._started))

    def batches_for(self, seconds: float) -> int:
        """Take batches of the epoch for so long, and where it ends those of the next ones."""
        end, num_images = time.perf_counter() + seconds, 0
        while True:
            for batch in self._started:
                num_images += self._take(batch)
                if time.perf_counter() >= end:
                    return num_images
            self._number += 1
            self._started = self._epochs(self._number)

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
    openings, num_epochs = {}, {}
    for name, contender in contenders.items():
        openings[name] = _open(contender, epoch=0)
        contender.run(Loading.rest_of_epoch)
        num_epochs[name] = _epochs_per_round(contender, round_seconds)

    def turn(name: str, number: int) -> Turn:
        first = number * _MOST_EPOCHS
        return contenders[name].run(partial(Loading.whole_epochs, numbers=range(first, first + num_epochs[name])))

    turns = take_turns(contenders, rounds, turn)
    return {
        name: _measurement(contender, turns[name], [openings[name]], epochs_per_round=num_epochs[name])
        for name, contender in contenders.items()
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
        _opened_epoch(contender, epoch=0)  # it compiles, and imports what it needs
    residents: dict[str, list[float]] = {name: [] for name in contenders}
    openings: dict[str, list[_Opening]] = {name: [] for name in contenders}

    def turn(name: str, number: int) -> Turn:
        evict(files[name])
        residents[name].append(resident_fraction(files[name]))
        opening, whole = _opened_epoch(contenders[name], epoch=number * _MOST_EPOCHS)
        openings[name].append(opening)
        return whole

    turns = take_turns(contenders, rounds, turn)
    return {
        name: replace(
            _measurement(contender, turns[name], openings[name], epochs_per_round=1),
            resident_fraction=max(residents[name]),
        )
        for name, contender in contenders.items()
    }


def measure_one_epoch(contender: Contender[Loading], *, rounds: int, round_seconds: float) -> Measurement:
    """Measure batches within an epoch, in rounds without a pause, after a round that warms up.

    Args:
        contender: The loader.
        rounds: How many.
        round_seconds: How long each lasts.
    """
    opening = _open(contender, epoch=0)
    turns = [contender.run(partial(Loading.batches_for, seconds=round_seconds)) for _ in range(1 + rounds)]
    return _measurement(contender, turns[1:], [opening], epochs_per_round=1)


class _Opening(NamedTuple):
    """The turns that build a loader and take its first batch."""

    build: Turn
    first_batch: Turn


def _open(contender: Contender[Loading], *, epoch: int) -> _Opening:
    return _Opening(contender.run(Loading.open), contender.run(partial(Loading.start_epoch, number=epoch)))


def _opened_epoch(contender: Contender[Loading], *, epoch: int) -> tuple[_Opening, Turn]:
    """Build a loader and take an epoch; it is closed then, so that no page stays mapped. The turn has all but that."""
    opening = _open(contender, epoch=epoch)
    rest = contender.run(Loading.rest_of_epoch)
    contender.run(Loading.close)
    parts = (*opening, rest)
    whole = replace(
        rest,
        num_images=sum(part.num_images for part in parts),
        seconds=sum(part.seconds for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts),
    )
    return opening, whole


def _measurement(
    contender: Contender[Loading], turns: list[Turn], openings: Sequence[_Opening], *, epochs_per_round: int
) -> Measurement:
    return Measurement(
        rounds=turns,
        epochs_per_round=epochs_per_round,
        open_seconds=median(build.seconds for build, _ in openings),
        first_batch_seconds=median(build.seconds + first.seconds for build, first in openings),
        anonymous_rss_bytes=contender.anonymous_rss_bytes(),
    )
