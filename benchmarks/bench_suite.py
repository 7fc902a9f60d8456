"""The whole comparison on one machine: loaders case by case, how they scale, and whole images, into one file of rows.

Without `--photos` the photos are made, the same ones everywhere, so that rows of different machines compare.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.bench_imread import BenchImread, bench_imread
from benchmarks.bench_loader import BenchLoader, bench_loader
from benchmarks.bench_scaling import BenchScaling, bench_scaling
from benchmarks.contenders import installed_contenders
from benchmarks.harness import say
from benchmarks.options import INSTALLED, check_positive, split_names
from benchmarks.row_files import Row, append_rows
from benchmarks.suite_data import SuiteData
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["CASES", "BenchSuite", "Measure", "bench_suite"]

_SCALED = ("native", "ffcv", "torch")
_IMAGES_PER_THREAD, _MOST_IMAGES = 1024, 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSuite:
    """Measure all loaders that are installed in all cases, how they scale, and whole images.

    The files that are measured are written into the temporary folder, which TMPDIR names: some gigabytes.
    """

    out: Path
    """Rows are appended to this file, as JSON lines, after each case."""
    photos: Path | None = None
    """A .beton file of JPEGs or a folder of them, in their original size. By default photos are made, the same ones on
    every machine."""
    cases: tuple[str, ...] = field(default_factory=lambda: tuple(CASES))
    """Which, separated by spaces or commas, of: train, restart, val, original, train-160, train-128, raw, cifar10,
    cold, scaling-threads, scaling-records, imread."""
    loaders: tuple[str, ...] = (INSTALLED,)
    """Which, as for `fastvit-bench loader`; of them, how native, ffcv and torch scale."""
    threads: int = field(default_factory=usable_cpus)
    """Threads or worker processes of each loader."""
    rounds: int = 5
    """How often each contender is measured, taking turns, after a warm-up."""
    num_images: int | None = None
    """How many images a file has: photos are taken evenly from those that are given, or several times. By default 1024
    for each thread, at most 16,384."""
    minutes: float | None = None
    """No case begins after so many minutes."""

    def __post_init__(self) -> None:
        check_positive(self, "threads", "rounds", "num_images")
        if self.minutes is not None and self.minutes <= 0:
            raise FastvitError(f"minutes must be positive, got {self.minutes}")
        _ = self.names, self.loader_options(self.out)

    @property
    def names(self) -> list[str]:
        """The cases, in the order of the command line."""
        return split_names(self.cases, CASES, kind="case")

    def loader_options(self, data: Path) -> BenchLoader:
        """The loader benchmark of a file, with what is alike in all cases."""
        return BenchLoader(data=data, loaders=self.loaders, threads=self.threads, rounds=self.rounds)


Measure = Callable[[BenchSuite, SuiteData], list[Row]]
"""Measures a case of the suite: its rows."""


def _loaders(
    config: BenchSuite,
    data: SuiteData,
    *,
    file: Literal["small", "restart", "original", "raw", "cifar10"],
    case: Literal["train", "val", "shift"] = "train",
    resolution: int = 224,
    cache: Literal["warm", "cold"] = "warm",
) -> list[Row]:
    options = config.loader_options(getattr(data, file))
    return bench_loader(replace(options, case=case, resolution=resolution, cache=cache))


def _scaling(config: BenchSuite, data: SuiteData, *, over: Literal["threads", "records"]) -> list[Row]:
    names = config.loader_options(data.small).names
    if INSTALLED in names:
        names = installed_contenders()
    loaders = tuple(name for name in _SCALED if name in names)
    if over == "records":  # of small images, which it makes itself
        return bench_scaling(BenchScaling(over=over, loaders=loaders, threads=(config.threads,), rounds=config.rounds))
    return bench_scaling(BenchScaling(over=over, data=data.small, loaders=loaders, rounds=config.rounds))


def _imread(config: BenchSuite, data: SuiteData) -> list[Row]:
    threads = tuple(sorted({1, config.threads}))
    return bench_imread(BenchImread(data=data.small, threads=threads, rounds=config.rounds))


CASES: Mapping[str, Measure] = {
    "train": partial(_loaders, file="small"),
    "restart": partial(_loaders, file="restart"),
    "val": partial(_loaders, file="small", case="val"),
    "original": partial(_loaders, file="original"),
    "train-160": partial(_loaders, file="small", resolution=160),
    "train-128": partial(_loaders, file="small", resolution=128),
    "raw": partial(_loaders, file="raw"),
    "cifar10": partial(_loaders, file="cifar10", case="shift", resolution=32),
    "cold": partial(_loaders, file="small", cache="cold"),
    "scaling-threads": partial(_scaling, over="threads"),
    "scaling-records": partial(_scaling, over="records"),
    "imread": _imread,
}
"""The cases by name: random crops to 224 px with the data in the page cache, where nothing else is said."""


def bench_suite(config: BenchSuite) -> list[Row]:
    """Measure case by case, each with its tables, and return the rows.

    A case that fails does not keep the others from being measured.

    Raises:
        FastvitError: The photos are no JPEGs, or, when all else is measured, a case failed.
        OSError: The rows or the data cannot be written.
    """
    append_rows(config.out, [])  # whether it can be written shows before anything is measured
    photos = config.photos.name if config.photos else "made"
    num_images = config.num_images or min(_IMAGES_PER_THREAD * config.threads, _MOST_IMAGES)
    rows: list[Row] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fastvit-suite-") as folder:
        data = SuiteData(Path(folder), config.photos, num_images)
        for name in _in_time(config):
            try:
                found = CASES[name](config, data)
            except (FastvitError, RuntimeError) as error:
                problems.append(f"{name}: {error}")
                say(f"case {name} failed: {error}")
                continue
            case = {"suite_case": name, "photos": photos}
            rows += [row | case | {"data": Path(row["data"]).name} for row in found]
            append_rows(config.out, rows[-len(found) :])
    if problems:
        raise FastvitError(f"{len(problems)} of {len(config.names)} cases failed: {'; '.join(problems)}")
    return rows


def _in_time(config: BenchSuite) -> Iterator[str]:
    """The names of the cases, as long as there is time; each is said as it begins, with the time that is left."""
    start, names = time.monotonic(), config.names
    for number, name in enumerate(names):
        minutes = (time.monotonic() - start) / 60
        if config.minutes is not None and minutes >= config.minutes:
            say(f"{config.minutes:g} minutes are over; not measured: {', '.join(names[number:])}")
            return
        left = f", about {minutes / number * (len(names) - number):.0f} min left" if number else ""
        say(f"case {number + 1} of {len(names)}: {name}{left}")
        yield name
