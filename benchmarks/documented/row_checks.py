"""What every row in `benchmarks/results` must say, so that others can trust and repeat it."""

import math
import re
from collections.abc import Iterator
from datetime import datetime

from benchmarks.documented.figures import numbers
from benchmarks.row_files import Row

__all__ = ["BENCHMARKS", "row_problems"]

BENCHMARKS = (
    *(
        "loader",
        "scaling",
        "imread",
        "train",
        "train-sweep",
        "inference",
        "augment",
        "convert",
        "accept",
        "doctor",
        "plan",
    ),
    "run",  # what a run of fastvit-train reached
    "engine",  # what was measured of the C++ engine, or of torch, with a profiler
    "reference",
)
"""What a row may be of: the commands of `fastvit-bench`, and what was measured without one."""

# What the documents' tables need of a row.
_FIELDS = {
    "loader": ("loader", "case", "resolution", "threads", "data", "images_per_second"),
    "scaling": ("over", "loader", "threads", "images_per_second"),
    "imread": ("decoder", "threads", "images_per_second"),
    "train": ("contender", "preset"),
    "inference": ("model", "batch_size", "precision", "compiled", "images_per_second", "latency_seconds"),
    "augment": ("contender", "policy"),
    "convert": ("converter", "images_per_second"),
    "doctor": ("data", "predicted_images_per_second"),
    "plan": ("preset", "num_gpus", "hours"),
    "accept": ("stage", "name", "status"),
    "reference": ("scale", "experiment", "title", "part", "family", "fraction", "top1"),
}

_COMMIT = re.compile("[0-9a-f]{40}")
_HOME = re.compile(r"/home/|/Users/|\\Users\\", re.IGNORECASE)
_POSITIVE = re.compile("images_per_second|megapixels_per_second|bytes_per_image|^rounds$")


def row_problems(row: Row) -> Iterator[str]:
    """What is missing or cannot be, a sentence each."""
    if row["benchmark"] not in BENCHMARKS:
        yield f"benchmark {row['benchmark']!r} is none of {', '.join(BENCHMARKS)}"
    if "source" not in row:
        yield from _origin_problems(row)
        yield from (f"it has no {name}" for name in _FIELDS.get(row["benchmark"], ()) if name not in row)
    if home := _HOME.search(str(row)):
        yield f"it has the path of a home folder ({home[0]}): leave it out, it may name a person"
    for name, number in numbers(row):
        if _POSITIVE.search(name) and not (math.isfinite(number) and number > 0):
            yield f"{name} must be positive, got {number}"
    for name, interval in row.items():
        median = row.get(name.removesuffix("_interval"))
        if name.endswith("_interval") and interval and median is not None and not interval[0] <= median <= interval[1]:
            yield f"{name} {interval} does not hold {median}"


def _origin_problems(row: Row) -> Iterator[str]:
    """Where a measured row is from; one with a `source` says it there."""
    if not row.get("command"):
        yield "it has no command"
    if not _COMMIT.fullmatch(row.get("commit") or ""):
        yield f"commit must be that of a checkout, in 40 digits, got {row.get('commit')!r}"
    if not _is_date(row.get("date")):
        yield f"date must be one with a time zone, got {row.get('date')!r}"
    if not (row.get("machine") or {}).get("cpu"):
        yield "it has no machine with a cpu"


def _is_date(date: object) -> bool:
    try:
        return datetime.fromisoformat(str(date)).tzinfo is not None
    except ValueError:
        return False
