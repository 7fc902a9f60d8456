"""Loaders side by side on one data set: whole epochs in interleaved rounds, after a warm-up."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.contenders import CONTENDERS, left_out, require_installed
from benchmarks.harness import Contender
from benchmarks.loading import Loading, Measurement, measure_cold, measure_warm
from benchmarks.measured_data import as_form, holds_raw_images, repeated
from benchmarks.options import INSTALLED, check_positive, split_names
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, ratio_column, ratios, speed_columns
from loaders import LoaderConfig
from loaders.crop import Crop
from loaders.errors import FastvitError
from loaders.shards import find_shards

__all__ = ["CROPS", "BenchLoader", "bench_loader", "contender_data"]

CROPS: dict[str, Crop] = {"train": "random_resized", "val": "center", "whole": "whole", "shift": "shift"}

_ROUND_SECONDS = 1.0
_MOST_RESIDENT = 0.01  # of data that counts as cold


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
    one that decodes on the CPU; `dali-mixed`, which decodes on the GPU; `dali-plain`, `dali-full` and
    `dali-plain-mixed`, NVIDIA DALI as its examples use it, with its own readers, order and crops; `torch-pil`,
    `torch-pil-draft`, `timm`, `spdl`, `spdl-io`, `webdataset`, `litdata`, `streaming` and `hf-datasets`, each with its
    own order and crops; `limit` (region decoding with libjpeg-turbo and nothing else). `installed` names all that are
    installed and can read the data here. Formats of their own are written into a temporary folder."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the batches are wanted: those that a loader makes on the CPU are copied to a GPU within its time."""
    threads: int = 2
    """Threads or worker processes of each."""
    batch_size: int = 256
    """Images per batch."""
    rounds: int = 5
    """How often each loader is measured, taking turns, after a warm-up."""
    cache: Literal["warm", "cold"] = "warm"
    """Where the data is when a round begins: warm, in the page cache, as far as it fits there; cold, on the disk alone:
    before each round its pages are dropped from memory, and the round is opening the loader and one epoch."""
    round_seconds: float = _ROUND_SECONDS
    """How long a warm round is to last at least: one epoch, or several of small data (at most 1000)."""
    repeat: int = 1
    """How often each image stands in the data that is measured, a temporary copy. At the beginning and the end of an
    epoch threads wait: in the short epochs of small data this counts, in those of ImageNet it does not."""
    json: Path | None = None
    """Append a line of JSON per loader to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "threads", "batch_size", "rounds", "repeat")
        on_gpu = [name for name in self.names if name != INSTALLED and CONTENDERS[name].decodes_on_gpu]
        if on_gpu and self.device == "cpu":
            raise FastvitError(f"{on_gpu[0]} decodes on a GPU: add --device cuda, or leave it out of --loaders")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise FastvitError(
                "device is cuda, but torch sees no CUDA device; leave --device out, or install torch for your CUDA"
            )
        if self.cache == "cold":
            self._check_cold()

    def _check_cold(self) -> None:
        if self.round_seconds != _ROUND_SECONDS:
            raise FastvitError(
                f"round_seconds must be left out with --cache cold, got {self.round_seconds:g}: a cold round is one "
                "epoch, which --repeat makes longer"
            )
        if self.repeat > 1 and (self.data.is_dir() or find_shards(self.data)):
            raise FastvitError(
                f"repeat must be 1 with --cache cold, got {self.repeat}: the copies of {self.data} are links, and the "
                "first of them brings all into memory; convert it to a .beton file, whose copies are real"
            )

    @property
    def names(self) -> list[str]:
        """The loaders, in the order of their turns; `installed` stands for those that `bench_loader` finds."""
        return split_names(self.loaders, {*CONTENDERS, INSTALLED}, kind="loader")

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


def bench_loader(config: BenchLoader) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        MissingPackageError: A loader is not installed; the message has the command that installs it.
        RuntimeError: A loader failed.
    """
    config, absent = _with_installed(config)
    with contender_data(config.names, config.data, repeat=config.repeat) as data:
        rows = measured_rows(
            "loader",
            {name: partial(Loading, name, config.loader_config, data[name]) for name in config.names},
            partial(_measure, config, data),
            partial(_row, config),
            json=config.json,
        )
    _print(rows)
    for name, reason in absent.items():
        print(f"Left out: {name} ({reason})")
    return rows


def _with_installed(config: BenchLoader) -> tuple[BenchLoader, dict[str, str]]:
    """The benchmark with the loaders that `installed` stands for, and why it does not stand for the others."""
    if INSTALLED not in config.names:
        return config, {}
    raw = holds_raw_images(config.data)
    absent = left_out(crop=CROPS[config.case], device=config.device, has_raw_images=raw)
    found = [name for name in CONTENDERS if name not in absent]
    names = [name for name in dict.fromkeys([*config.names, *found]) if name != INSTALLED]
    return replace(config, loaders=tuple(names)), {name: absent[name] for name in absent if name not in names}


@contextmanager
def contender_data(names: Sequence[str], data: Path, *, repeat: int = 1) -> Iterator[dict[str, Path]]:
    """Where each contender reads, in the context: what is not there in its form is made for that.

    Args:
        names: The contenders.
        data: What `open_records` takes.
        repeat: How often each image is to stand in it.

    Raises:
        FastvitError: The data is damaged, or is to be written in another form and cannot be.
        MissingPackageError: A loader is not installed; the message has the command that installs it.
        OSError: The disk is full.
    """
    require_installed(names)
    with tempfile.TemporaryDirectory(prefix="fastvit-bench-") as name:
        folder = Path(name)
        if repeat > 1:
            data = repeated(data, folder / "repeated", times=repeat)
        forms = {name: CONTENDERS[name].form for name in names}
        readers = {form: name for name, form in reversed(forms.items())}  # the first one that reads it
        made = {form: as_form(form, data, folder / form, reader=name) for form, name in readers.items()}
        yield {name: made[form] for name, form in forms.items()}


def _measure(
    config: BenchLoader, data: dict[str, Path], contenders: dict[str, Contender[Loading]]
) -> dict[str, Measurement]:
    if config.cache == "cold":
        return measure_cold(contenders, data, rounds=config.rounds)
    return measure_warm(contenders, rounds=config.rounds, round_seconds=config.round_seconds)


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
        "cache": config.cache,
        "cold_note": _cold_note(mine.resident_fraction),
        **costs(mine.rounds),
        "epochs_per_round": mine.epochs_per_round,
        **ratios("ratio_to_first", mine.rounds, measurements[config.names[0]].rounds),
        **ratios("ratio_to_limit", mine.rounds, limit.rounds if limit else None),
        "first_batch_seconds": mine.first_batch_seconds,
    }


def _cold_note(resident_fraction: float | None) -> str | None:
    """Why a loader's cold data was not cold; None where it was, or was to be warm."""
    if resident_fraction is None or resident_fraction <= _MOST_RESIDENT:
        return None
    return (
        f"{resident_fraction:.0%} of the data stayed in memory, as far as the kernel tells: it is in use elsewhere, "
        "belongs to another user, or its file system is in memory"
    )


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
    notes = [f"{row['loader']} was not measured cold: {row['cold_note']}." for row in rows if row["cold_note"]]
    data = f"{first['repeat']} x {first['data']}" if first["repeat"] > 1 else first["data"]
    title = (
        f"{data}, {first['case']}, {first['resolution']} px, {first['threads']} threads each, {first['cache']} cache"
    )
    print_table(title, columns, rows, notes=notes)
