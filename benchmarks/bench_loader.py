"""Loaders side by side on one data set: whole epochs in interleaved rounds, after a warm-up."""

import math
import tempfile
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders import CONTENDERS
from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.measured_data import as_form, repeated
from benchmarks.options import check_positive, split_names
from benchmarks.peers.epochs import Epochs
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, ratio_column, ratios, speed_columns
from loaders import LoaderConfig, build_loader
from loaders.crop import Crop
from loaders.errors import FastvitError

__all__ = ["CROPS", "BenchLoader", "Loading", "Measurement", "WarmUp", "bench_loader"]


CROPS: dict[str, Crop] = {"train": "random_resized", "val": "center", "whole": "whole", "shift": "shift"}

# Round k makes epochs k * _MOST_EPOCHS and following: all loaders see the same crops, however many epochs they make.
_MOST_EPOCHS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchLoader:
    """Measure loaders side by side on one data set."""

    data: Path
    """A .beton file, a folder with a sub-folder for each class, or shards. Some loaders take fewer of these."""
    case: Literal["train", "val", "whole", "shift"] = "train"
    """Random resized crops in random order; center crops in file order; whole images in random order; or these flipped
    and shifted at random."""
    resolution: int = 224
    """Side of the images that the loaders hand over, in pixels."""
    loaders: tuple[str, ...] = ("native", "ffcv", "torch")
    """Which, separated by spaces or commas: the backends, of which `torch` uses torchvision's decoder and `dali` is the
    one that decodes on the CPU; `dali-mixed`, which decodes on the GPU; `dali-plain` and `dali-plain-mixed`, NVIDIA
    DALI as its examples use it, with its own readers, order and crops, for which the images of a .beton file are
    written into a temporary folder; `limit` (region decoding with libjpeg-turbo and nothing else)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the batches are wanted: those that a loader makes on the CPU are copied to a GPU within its time."""
    threads: int = 2
    """Threads or worker processes of each."""
    batch_size: int = 256
    """Images per batch."""
    rounds: int = 5
    """How often each loader is measured, taking turns, after a warm-up."""
    round_seconds: float = 1.0
    """How long a round is to last at least: one epoch, or several of small data (at most 1000)."""
    repeat: int = 1
    """How often each image stands in the data that is measured, a temporary copy. At the beginning and the end of an
    epoch threads wait: in the short epochs of small data this counts, in those of ImageNet it does not."""
    json: Path | None = None
    """Append a line of JSON per loader to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "threads", "batch_size", "rounds", "repeat")
        on_gpu = [name for name in self.names if CONTENDERS[name].decodes_on_gpu]
        if on_gpu and self.device == "cpu":
            raise FastvitError(f"{on_gpu[0]} decodes on a GPU: add --device cuda, or leave it out of --loaders")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise FastvitError(
                "device is cuda, but torch sees no CUDA device; leave --device out, or install torch for your CUDA"
            )

    @property
    def names(self) -> list[str]:
        """The loaders, in the order of their turns."""
        return split_names(self.loaders, CONTENDERS, kind="loader")

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
            device=torch.device(self.device),
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
    """One loader in its own process: the work that is measured. Making it imports what the loader needs.

    Args:
        name: The contender.
        config: What is measured.
        data: Where it reads.
    """

    def __init__(self, name: str, config: BenchLoader, data: Path) -> None:
        torch.set_num_threads(config.threads)
        entrant, options = CONTENDERS[name], config.loader_config
        module = import_module(entrant.module)
        self._device = options.device
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # which takes seconds
        if entrant.backend is None:
            self._open = partial(module.open_epochs, data, options, **entrant.options)
        else:
            self._open = partial(_backend_epochs, entrant.backend, data, replace(options, **entrant.options))

    def first_batch(self) -> int:
        """Build the loader and take one batch."""
        self._epochs: Epochs = self._open()
        self._first_epoch = self._epochs(0)
        return self._take(next(self._first_epoch))

    def rest_of_epoch(self) -> int:
        """Take the batches that follow the first one."""
        return sum(map(self._take, self._first_epoch))

    def whole_epochs(self, numbers: range) -> int:
        """Take all batches of these epochs."""
        return sum(self._take(batch) for number in numbers for batch in self._epochs(number))

    def _take(self, batch: Sized) -> int:
        """Have the batch on the device; returns its number of images."""
        if self._device.type == "cuda" and isinstance(batch, Tensor):
            batch.to(self._device, non_blocking=True)
            # Not blocking, a core would spin until then, at the loader's expense.
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrived.record()
            arrived.synchronize()
        return len(batch)


def bench_loader(config: BenchLoader) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A loader failed.
    """
    with _data(config) as data:
        rows = measured_rows(
            "loader",
            {name: partial(Loading, name, config, data[name]) for name in config.names},
            partial(_measure, config),
            partial(_row, config),
            json=config.json,
        )
    _print(rows)
    return rows


@contextmanager
def _data(config: BenchLoader) -> Iterator[dict[str, Path]]:
    """Where each contender reads, in the context: some of it is made for that."""
    with tempfile.TemporaryDirectory(prefix="fastvit-bench-") as name:
        folder, data = Path(name), config.data
        if config.repeat > 1:
            data = repeated(data, folder / "repeated", times=config.repeat)
        forms = {name: CONTENDERS[name].form for name in config.names}
        readers = {form: name for name, form in reversed(forms.items())}  # the first one that reads it
        made = {form: as_form(form, data, folder / form, reader=name) for form, name in readers.items()}
        yield {name: made[form] for name, form in forms.items()}


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
        "device": config.device,
        "data": str(config.data),
        "repeat": config.repeat,
        **costs(mine.rounds),
        "epochs_per_round": mine.warm_up.epochs_per_round,
        **ratios("ratio_to_first", mine.rounds, measurements[config.names[0]].rounds),
        **ratios("ratio_to_limit", mine.rounds, limit.rounds if limit else None),
        "first_batch_seconds": mine.warm_up.first_batch.seconds,
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "loader": [row["loader"] for row in rows],
        **speed_columns(rows),
        **cost_columns(rows),
        f"ratio to {first['loader']}": ratio_column("ratio_to_first", rows),
        "ratio to limit": ratio_column("ratio_to_limit", rows),
        "first batch s": [f"{row['first_batch_seconds']:.2f}" for row in rows],
    }
    data = f"{first['repeat']} x {first['data']}" if first["repeat"] > 1 else first["data"]
    title = f"{data}, {first['case']}, {first['resolution']} px, {first['threads']} threads each"
    print_table(title, columns, rows)
