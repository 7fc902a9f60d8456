"""Loaders side by side on one file: whole epochs in interleaved rounds, after a warm-up."""

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.options import check_positive, split_names
from benchmarks.peers.epochs import Epochs
from benchmarks.rows import Row, cost_columns, costs, measured_rows, median_ratio, print_table, speed_columns
from loaders import BACKENDS, LoaderConfig, build_loader
from loaders.crop import Crop

__all__ = ["CROPS", "MODULES", "PEERS", "BenchLoader", "Loading", "Measurement", "WarmUp", "bench_loader"]

PEERS = {
    "dali": "benchmarks.peers.dali",
    "limit": "benchmarks.peers.limit",
    "torch": "benchmarks.peers.torchvision_loader",
}
"""The contenders that are no backends as users have them."""
MODULES = {name: f"loaders.{name}_loader" for name in BACKENDS} | PEERS
"""What each contender imports before its clock starts."""
CROPS: dict[str, Crop] = {"train": "random_resized", "val": "center", "whole": "whole", "shift": "shift"}

# Round k makes epochs k * _MOST_EPOCHS and following: all loaders see the same crops, however many epochs they make.
_MOST_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchLoader:
    """Measure loaders side by side on one .beton file."""

    data: Path
    """The file."""
    case: Literal["train", "val", "whole", "shift"] = "train"
    """Random resized crops in random order; center crops in file order; whole images in random order; or these flipped
    and shifted at random."""
    resolution: int = 224
    """Side of the images that the loaders hand over, in pixels."""
    loaders: tuple[str, ...] = ("native", "ffcv", "torch")
    """Which, separated by spaces or commas: the backends, of which `torch` uses torchvision's decoder, `dali`
    (NVIDIA DALI on the CPU), or `limit` (region decoding with libjpeg-turbo and nothing else)."""
    threads: int = 2
    """Threads or worker processes of each."""
    batch_size: int = 256
    """Images per batch."""
    rounds: int = 5
    """How often each loader is measured, taking turns, after a warm-up."""
    round_seconds: float = 1.0
    """How long a round is to last at least: one epoch, or several of a small file (at most 1000)."""
    json: Path | None = None
    """Append a line of JSON per loader to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "threads", "batch_size", "rounds")
        _ = self.names

    @property
    def names(self) -> list[str]:
        """The loaders, in the order of their turns."""
        return split_names(self.loaders, MODULES, kind="loader")

    @property
    def loader_config(self) -> LoaderConfig:
        """What each loader is asked for."""
        return LoaderConfig(
            batch_size=self.batch_size,
            resolution=self.resolution,
            crop=CROPS[self.case],
            order="sequential" if self.case == "val" else "random",
            drop_last=False,
            num_workers=self.threads,
        )


class WarmUp(NamedTuple):
    """What a loader's first turns tell."""

    first_batch: Turn
    epochs_per_round: int


class Measurement(NamedTuple):
    """One loader's turns."""

    warm_up: WarmUp
    rounds: list[Turn]


class Loading:
    """One loader in its own process: the work that is measured. Making it imports what the loader needs."""

    def __init__(self, name: str, config: BenchLoader) -> None:
        torch.set_num_threads(config.threads)
        module = import_module(MODULES[name])
        open_epochs = module.open_epochs if name in PEERS else partial(_backend_epochs, name)
        self._open = partial(open_epochs, config.data, config.loader_config)

    def first_batch(self) -> int:
        """Build the loader and take one batch."""
        self._epochs: Epochs = self._open()
        self._first_epoch = self._epochs(0)
        return len(next(self._first_epoch))

    def rest_of_epoch(self) -> int:
        """Take the batches that follow the first one."""
        return sum(len(batch) for batch in self._first_epoch)

    def whole_epochs(self, numbers: range) -> int:
        """Take all batches of these epochs."""
        return sum(len(batch) for number in numbers for batch in self._epochs(number))


def bench_loader(config: BenchLoader) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A loader failed.
    """
    rows = measured_rows(
        {name: partial(Loading, name, config) for name in config.names},
        partial(_measure, config),
        partial(_row, config),
        json=config.json,
    )
    _print(rows)
    return rows


def _backend_epochs(name: str, path: Path, config: LoaderConfig) -> Epochs:
    loader = build_loader(name, path, config)

    def epochs(number: int) -> Iterator[Sized]:
        loader.set_epoch(number)
        for batch in loader:
            yield batch.images

    return epochs


def _measure(config: BenchLoader, contenders: dict[str, Contender[Loading]]) -> dict[str, Measurement]:
    warm_ups = {name: _warm_up(contender, config.round_seconds) for name, contender in contenders.items()}

    def turn(name: str, number: int) -> Turn:
        first = number * _MOST_EPOCHS
        numbers = range(first, first + warm_ups[name].epochs_per_round)
        return contenders[name].run(partial(Loading.whole_epochs, numbers=numbers))

    turns = take_turns(contenders, config.rounds, turn)
    return {name: Measurement(warm_ups[name], turns[name]) for name in contenders}


def _warm_up(contender: Contender[Loading], round_seconds: float) -> WarmUp:
    first_batch = contender.run(Loading.first_batch)
    contender.run(Loading.rest_of_epoch)
    return WarmUp(first_batch, _epochs_per_round(contender, round_seconds))


def _epochs_per_round(contender: Contender[Loading], round_seconds: float) -> int:
    """How many epochs last long enough, found by trying."""
    num_epochs = 1
    while True:
        seconds = contender.run(partial(Loading.whole_epochs, numbers=range(1, 1 + num_epochs))).seconds
        if seconds >= round_seconds or num_epochs == _MOST_EPOCHS:
            return num_epochs
        num_epochs = min(math.ceil(1.1 * num_epochs * round_seconds / seconds), _MOST_EPOCHS)


def _row(config: BenchLoader, name: str, measurements: dict[str, Measurement]) -> Row:
    mine, limit = measurements[name], measurements.get("limit")
    return {
        "loader": name,
        "case": config.case,
        "resolution": config.resolution,
        "threads": config.threads,
        "batch_size": config.batch_size,
        "data": str(config.data),
        **costs(mine.rounds),
        "epochs_per_round": mine.warm_up.epochs_per_round,
        "ratio_to_first": median_ratio(mine.rounds, measurements[config.names[0]].rounds),
        "ratio_to_limit": median_ratio(mine.rounds, limit.rounds) if limit else None,
        "first_batch_seconds": mine.warm_up.first_batch.seconds,
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "loader": [row["loader"] for row in rows],
        **speed_columns(rows),
        **cost_columns(rows),
        f"ratio to {first['loader']}": [f"{row['ratio_to_first']:.2f}" for row in rows],
        "ratio to limit": [f"{row['ratio_to_limit']:.2f}" if row["ratio_to_limit"] else "" for row in rows],
        "first batch s": [f"{row['first_batch_seconds']:.2f}" for row in rows],
    }
    title = f"{first['data']}, {first['case']}, {first['resolution']} px, {first['threads']} threads each"
    print_table(title, columns, rows)
