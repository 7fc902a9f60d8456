"""Loaders side by side on one file: whole epochs in interleaved rounds, after a warm-up."""

import json
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Contender, Round, Work
from benchmarks.limit import region_decoding
from fastvit_train.run_folder import provenance
from loaders import BACKENDS, ImageLoader, LoaderConfig, build_loader
from loaders.crop import Crop

_TABLE_WIDTH = 120  # in a file or a pipe, where there is no terminal to fit

CONTENDERS = {*BACKENDS, "limit"}
CROPS: dict[str, Crop] = {"train": "random_resized", "val": "center", "whole": "whole"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchLoader:
    """Measure loaders side by side on one .beton file."""

    data: Path
    """The file."""
    case: Literal["train", "val", "whole"] = "train"
    """Random resized crops in random order; center crops in file order; or whole images in random order."""
    resolution: int = 224
    """Side of the images that the loaders hand over, in pixels."""
    loaders: tuple[str, ...] = ("native", "ffcv", "torch")
    """Which backends, separated by spaces or commas; `limit` is region decoding with libjpeg-turbo and nothing else."""
    threads: int = 2
    """Threads or worker processes of each."""
    batch_size: int = 256
    """Images per batch."""
    rounds: int = 5
    """Epochs that count, of each loader, taking turns; one more before them warms up."""
    json: Path | None = None
    """Append a line of JSON per loader to this file."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.threads < 1 or self.batch_size < 1:
            raise ValueError("rounds, threads and batch_size must be positive")
        if unknown := set(self.names) - CONTENDERS:
            raise ValueError(f"unknown loader {sorted(unknown)[0]!r}; choose from: {', '.join(sorted(CONTENDERS))}")

    @property
    def names(self) -> list[str]:
        """The loaders, in the order of their turns."""
        return [name for group in self.loaders for name in group.split(",") if name]


def bench_loader(config: BenchLoader) -> list[dict[str, Any]]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A loader failed.
    """
    with ExitStack() as stack:
        contenders = {
            name: stack.enter_context(Contender(name, partial(_prepare, name, config))) for name in config.names
        }
        turns: dict[str, list[Round]] = {name: [] for name in contenders}
        for number in range(2 + config.rounds):  # the first batch, the warm-up, and what counts
            for name, contender in contenders.items():
                turns[name].append(contender.run(number))
    rows = [_row(name, config, turns[name]) for name in contenders]
    if config.json:
        with config.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(_table(rows))
    return rows


def _prepare(name: str, config: BenchLoader) -> Work:
    loader_config = LoaderConfig(
        batch_size=config.batch_size,
        resolution=config.resolution,
        crop=CROPS[config.case],
        order="sequential" if config.case == "val" else "random",
        drop_last=False,
        num_workers=config.threads,
    )
    if name == "limit":
        return region_decoding(config.data, loader_config)
    loader: ImageLoader | None = None

    def work(number: int) -> int:
        nonlocal loader
        if loader is None:  # the first turn: from nothing to the first batch
            loader = build_loader(name, config.data, loader_config)
            return len(next(iter(loader)).labels)
        loader.set_epoch(number)
        return sum(len(batch.labels) for batch in loader)

    return work


def _row(name: str, config: BenchLoader, turns: list[Round]) -> dict[str, Any]:
    first_batch, rounds = turns[0], turns[2:]
    speeds = [one.num_images / one.seconds for one in rounds]
    return {
        "loader": name,
        "case": config.case,
        "resolution": config.resolution,
        "threads": config.threads,
        "batch_size": config.batch_size,
        "data": str(config.data),
        "images_per_second": statistics.median(speeds),
        "rounds": speeds,
        "cpu_seconds_per_image": statistics.median(one.cpu_seconds / one.num_images for one in rounds),
        "peak_rss_bytes": rounds[-1].peak_rss_bytes,
        "first_batch_seconds": first_batch.seconds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    first = rows[0]
    title = f"{first['data']}, {first['case']}, {first['resolution']} px, {first['threads']} threads each"
    table = Table(
        "loader",
        "images/s",
        "spread",
        f"ratio to {first['loader']}",
        "CPU us/image",
        "peak MiB",
        "first batch s",
        title=title,
    )
    for row in rows:
        ratios = [mine / base for mine, base in zip(row["rounds"], first["rounds"], strict=True)]
        table.add_row(
            row["loader"],
            f"{row['images_per_second']:,.0f}",
            f"{min(row['rounds']):,.0f}-{max(row['rounds']):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{1e6 * row['cpu_seconds_per_image']:,.0f}",
            f"{row['peak_rss_bytes'] / 2**20:,.0f}",
            f"{row['first_batch_seconds']:.2f}",
        )
    return table
