"""Loaders side by side on one file: whole epochs in interleaved rounds, after a warm-up."""

import json
import math
import statistics
import sys
from collections.abc import Iterator, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from benchmarks.harness import Contender, Turn
from benchmarks.peers import Epochs
from loaders import BACKENDS, LoaderConfig, build_loader
from loaders.crop import Crop

_TABLE_WIDTH = 120  # in a file or a pipe, where there is no terminal to fit

PEERS = ("dali", "limit")
MODULES = {name: f"loaders.{name}_loader" for name in BACKENDS} | {name: f"benchmarks.peers.{name}" for name in PEERS}
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
    """Which, separated by spaces or commas: the backends, `dali` (NVIDIA DALI on the CPU), or `limit` (region decoding
    with libjpeg-turbo and nothing else)."""
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
        for name in ("resolution", "threads", "batch_size", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.names:
            raise ValueError(f"loaders must name at least one of: {', '.join(sorted(MODULES))}")
        if unknown := set(self.names) - set(MODULES):
            raise ValueError(f"unknown loader {min(unknown)!r}; choose from: {', '.join(sorted(MODULES))}")

    @property
    def names(self) -> list[str]:
        """The loaders, in the order of their turns."""
        return list(dict.fromkeys(name for group in self.loaders for name in group.split(",") if name))

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One loader's turns."""

    first_batch: Turn
    epochs_per_round: int
    rounds: list[Turn]

    @property
    def speeds(self) -> list[float]:
        """Images per second of each round."""
        return [turn.num_images / turn.seconds for turn in self.rounds]

    def ratio_to(self, other: "Measurement") -> float:
        """The median over the rounds of this loader's speed as a share of the other's in the same round."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.speeds, other.speeds, strict=True))


class Loading:
    """One loader in the process of its own: the work that is measured. Making it imports what the loader needs."""

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


def bench_loader(config: BenchLoader) -> list[dict[str, Any]]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A loader failed.
    """
    with ExitStack() as stack:
        lines = stack.enter_context(config.json.open("a")) if config.json else None
        contenders = {
            name: stack.enter_context(Contender(name, partial(Loading, name, config))) for name in config.names
        }
        measurements = _measure(contenders, config)
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
        rows = [_row(name, config, measurements) | about for name in contenders]
        if lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(_table(rows))
    return rows


def _backend_epochs(name: str, path: Path, config: LoaderConfig) -> Epochs:
    loader = build_loader(name, path, config)

    def epochs(number: int) -> Iterator[Sized]:
        loader.set_epoch(number)
        for batch in loader:
            yield batch.images

    return epochs


def _measure(contenders: dict[str, Contender[Loading]], config: BenchLoader) -> dict[str, Measurement]:
    for contender in contenders.values():
        contender.wait_until_ready()
    measurements = {
        name: Measurement(
            first_batch=contender.run(Loading.first_batch),
            epochs_per_round=_epochs_per_round(contender, config.round_seconds),
            rounds=[],
        )
        for name, contender in contenders.items()
    }
    for number in range(1, 1 + config.rounds):
        for name, measurement in measurements.items():
            first = number * _MOST_EPOCHS
            numbers = range(first, first + measurement.epochs_per_round)
            measurement.rounds.append(contenders[name].run(partial(Loading.whole_epochs, numbers=numbers)))
    return measurements


def _epochs_per_round(contender: Contender[Loading], round_seconds: float) -> int:
    """How many epochs last long enough, found by trying, which warms up as well."""
    contender.run(Loading.rest_of_epoch)
    num_epochs = 1
    while True:
        seconds = contender.run(partial(Loading.whole_epochs, numbers=range(1, 1 + num_epochs))).seconds
        if seconds >= round_seconds or num_epochs == _MOST_EPOCHS:
            return num_epochs
        num_epochs = min(math.ceil(1.1 * num_epochs * round_seconds / seconds), _MOST_EPOCHS)


def _row(name: str, config: BenchLoader, measurements: dict[str, Measurement]) -> dict[str, Any]:
    mine, limit = measurements[name], measurements.get("limit")
    return {
        "loader": name,
        "case": config.case,
        "resolution": config.resolution,
        "threads": config.threads,
        "batch_size": config.batch_size,
        "data": str(config.data),
        "images_per_second": statistics.median(mine.speeds),
        "rounds": mine.speeds,
        "epochs_per_round": mine.epochs_per_round,
        "ratio_to_first": mine.ratio_to(measurements[config.names[0]]),
        "ratio_to_limit": mine.ratio_to(limit) if limit else None,
        "cpu_seconds_per_image": statistics.median(turn.cpu_seconds / turn.num_images for turn in mine.rounds),
        "peak_rss_bytes": mine.rounds[-1].peak_rss_bytes,
        "first_batch_seconds": mine.first_batch.seconds,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    first = rows[0]
    machine = first["machine"]
    table = Table(
        title=f"{first['data']}, {first['case']}, {first['resolution']} px, {first['threads']} threads each",
        caption=f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB",
    )
    columns: dict[str, list[str]] = {
        "loader": [row["loader"] for row in rows],
        "images/s": [f"{row['images_per_second']:,.0f}" for row in rows],
        "spread": [f"{min(row['rounds']):,.0f}-{max(row['rounds']):,.0f}" for row in rows],
        f"ratio to {first['loader']}": [f"{row['ratio_to_first']:.2f}" for row in rows],
        "ratio to limit": [f"{row['ratio_to_limit']:.2f}" for row in rows if row["ratio_to_limit"]],
        "CPU us/image": [f"{1e6 * row['cpu_seconds_per_image']:,.0f}" for row in rows],
        "peak MiB": [f"{row['peak_rss_bytes'] / 2**20:,.0f}" for row in rows],
        "first batch s": [f"{row['first_batch_seconds']:.2f}" for row in rows],
    }
    columns = {title: cells for title, cells in columns.items() if cells}
    for title in columns:
        table.add_column(title, justify="left" if title == "loader" else "right")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table
