"""Rows: what a benchmark found of each contender, as figures, as lines of JSON and as a table."""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from benchmarks.harness import Contender, Subject, Turn, started
from benchmarks.intervals import Interval, median, median_ratio
from benchmarks.noise import NoiseWatch
from benchmarks.row_files import Row, append_rows

__all__ = [
    "cost_columns",
    "costs",
    "interval_text",
    "measured_rows",
    "print_columns",
    "print_table",
    "ratio_column",
    "ratios",
    "speed_columns",
]

_TABLE_WIDTH = 160  # in a file or a pipe, where there is no terminal to fit

_Measurements = TypeVar("_Measurements")


def _speeds(turns: Sequence[Turn]) -> list[float]:
    """Images per second of each turn."""
    return [turn.num_images / turn.seconds for turn in turns]


def ratios(name: str, turns: Sequence[Turn], others: Sequence[Turn] | None, *, scale: float = 1.0) -> Row:
    """The part of a row that says how a contender's speed relates to another's in the same rounds.

    Args:
        name: The figure's; its interval is called after it.
        turns: The contender's.
        others: The other's; None where there is no such contender.
        scale: What ratios are multiplied by.
    """
    mine = [scale * speed for speed in _speeds(turns)]
    estimate = None if others is None else median_ratio(mine, _speeds(others))
    return {name: estimate and estimate.value, f"{name}_interval": estimate and estimate.interval}


def costs(turns: Sequence[Turn]) -> Row:
    """The part of a row that says how fast a contender was, and what it cost."""
    busy = [turn.device_busy_fraction for turn in turns if turn.device_busy_fraction is not None]
    speed = median(_speeds(turns))
    return {
        "images_per_second": speed.value,
        "images_per_second_interval": speed.interval,
        "rounds": _speeds(turns),
        "cpu_seconds_per_image": statistics.median(turn.cpu_seconds / turn.num_images for turn in turns),
        "peak_rss_bytes": max(turn.peak_rss_bytes for turn in turns),
        "peak_device_memory_bytes": turns[-1].peak_device_memory_bytes,
        "device_busy_fraction": statistics.median(busy) if busy else None,
    }


def measured_rows(
    benchmark: str,
    subjects: Mapping[str, Callable[[], Subject]],
    measure: Callable[[dict[str, Contender[Subject]]], _Measurements],
    row: Callable[[str, _Measurements], Row],
    *,
    json: Path | None,
) -> list[Row]:
    """Start the contenders, measure them, and make a row of each.

    Args:
        benchmark: The command whose rows these are, as `fastvit-bench` has it.
        subjects: What makes each contender's subject, by name.
        measure: Measures all of them.
        row: Makes a contender's row, to which it is added when, how and where it was measured.
        json: The rows are appended to this file, a line of JSON each.

    Raises:
        OSError: The file cannot be written, which shows before anything is measured.
        RuntimeError: A contender failed.
    """
    with _appended_rows(json) as rows, started(subjects) as contenders:
        with NoiseWatch() as watch:
            measurements = measure(contenders)
        origin = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
        found = {name: row(name, measurements) for name in contenders}
        noise = watch.noise({name: each["rounds"] for name, each in found.items()})
        rows += [{"benchmark": benchmark, **each, "noise": noise, **origin} for each in found.values()]
    return rows


@contextmanager
def _appended_rows(path: Path | None) -> Iterator[list[Row]]:
    """A list to fill: in the end its rows are appended to the file."""
    rows: list[Row] = []
    if path is not None:
        append_rows(path, [])  # whether it can be written shows before anything is measured
    yield rows
    if path is not None:
        append_rows(path, rows)


def print_table(
    title: str, columns: Mapping[str, Sequence[str]], rows: Sequence[Row], *, notes: Sequence[str] = ()
) -> None:
    """Print what rows say as a table, and below it lines of text, of which the last ones are the rows' warnings.

    Args:
        title: What stands above.
        columns: The cells by heading, the first column to the left; a column without any text is left out.
        rows: What the cells were made of.
        notes: The first lines below.
    """
    machine, versions = rows[0]["machine"], rows[0]["versions"]
    caption = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    if gpu := machine["gpu"]:
        caption += f"\n{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}"
    # Rows that predict or list something measure no rounds.
    noises = [row["noise"] for row in rows if "noise" in row]
    warnings = dict.fromkeys(f"Warning: {warning}" for noise in noises for warning in noise["warnings"])
    print_columns(title, columns, caption=f"{caption}, torch {versions['torch']}", notes=(*notes, *warnings))


def print_columns(title: str, columns: Mapping[str, Sequence[str]], *, caption: str, notes: Sequence[str] = ()) -> None:
    """Print a table of cells by heading, as `print_table` does, with a caption in place of the machine."""
    table = Table(title=title, caption=caption)
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    for number, name in enumerate(filled):
        table.add_column(name, justify="right" if number else "left")
    for cells in zip(*filled.values(), strict=True):
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    console.print(table)
    for line in notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def speed_columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns of the table that say how fast each was."""
    return {
        "images/s": [f"{row['images_per_second']:,.0f}" for row in rows],
        "95 % interval": [interval_text(row["images_per_second_interval"], digits=0) for row in rows],
    }


def ratio_column(name: str, rows: Sequence[Row], *, digits: int = 2) -> list[str]:
    """The column of the table that says a ratio of `ratios`, with its interval."""
    return [
        "" if row[name] is None else f"{row[name]:.{digits}f} ({interval_text(row[f'{name}_interval'], digits=digits)})"
        for row in rows
    ]


def interval_text(interval: Interval, *, digits: int) -> str:
    """Both ends, with so many digits after the point."""
    low, high = interval
    return f"{low:,.{digits}f}-{high:,.{digits}f}"


def cost_columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns of the table that say what each took of the machine."""
    return {
        "CPU us/image": [f"{1e6 * row['cpu_seconds_per_image']:,.0f}" for row in rows],
        "peak MiB": [_mebibytes(row["peak_rss_bytes"]) for row in rows],
        "on the GPU": [_mebibytes(row.get("peak_device_memory_bytes")) for row in rows],
        "GPU busy": [_percent(row.get("device_busy_fraction")) for row in rows],
    }


def _mebibytes(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 2**20:,.0f}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"
