"""Which report rows of each benchmark get."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.accept.tables import accept_sections
from benchmarks.report.advice import doctor_sections, plan_sections
from benchmarks.report.inference import inference_sections
from benchmarks.report.loading import imread_sections, loader_sections, scaling_sections
from benchmarks.report.reference import reference_sections
from benchmarks.report.training import augment_sections, convert_sections, sweep_sections, train_sections
from benchmarks.row_files import Row
from fastvit_train.page.content import Section
from loaders.errors import FastvitError

__all__ = ["LAYOUTS", "row_sections"]


class _Layout(NamedTuple):
    sections: Callable[[Sequence[Row]], list[Section]]
    needed: tuple[str, ...]
    """The keys without which a row cannot be shown."""


_SPEED = "images_per_second"

LAYOUTS: dict[str, _Layout] = {
    "loader": _Layout(loader_sections, ("loader", "data", "case", "resolution", "threads", _SPEED, "ratio_to_first")),
    "scaling": _Layout(
        scaling_sections, ("over", "loader", "threads", "records", "data", "case", "resolution", _SPEED)
    ),
    "imread": _Layout(imread_sections, ("decoder", "data", "num_images", "threads", _SPEED)),
    "reference": _Layout(
        reference_sections,
        (
            *("scale", "experiment", "title", "part", "family", "preset", "arch", "fraction", "top1"),
            *("train_seconds", "device_hours", "command"),
        ),
    ),
    "train": _Layout(train_sections, ("contender", "preset", "batch_size", "resolution", "device", "threads")),
    "train-sweep": _Layout(sweep_sections, ("preset", "batch_size")),
    "inference": _Layout(
        inference_sections,
        (
            *("model", "arch", "batch_size", "precision", "compiled", "device", "threads"),
            *(_SPEED, "latency_seconds", "flops_per_image"),
        ),
    ),
    "augment": _Layout(
        augment_sections,
        ("contender", "policy", "batch_size", "resolution", "device", "threads", "milliseconds_per_batch"),
    ),
    "convert": _Layout(convert_sections, ("converter", "source", "num_images", "workers", _SPEED)),
    "doctor": _Layout(
        doctor_sections,
        ("data", "case", "resolution", "threads", "facts", "limits", "limited_by", "options", f"predicted_{_SPEED}"),
    ),
    "plan": _Layout(
        plan_sections, ("preset", "num_gpus", "num_images", "epochs", "shares", "needs", "assumptions", "limited_by")
    ),
    "accept": _Layout(accept_sections, ("stage", "name", "status")),
}
"""By the name of the benchmark, in the order of the page."""


def row_sections(rows: Sequence[Row]) -> list[Section]:
    """The sections of rows of any benchmarks, in any mixture.

    Raises:
        FastvitError: A row is of a benchmark that is not known, or lacks what its report needs.
    """
    for row in rows:
        _check(row)
    found = []
    for name, layout in LAYOUTS.items():
        if mine := [row for row in rows if row["benchmark"] == name]:
            found += layout.sections(mine)
    return found


def _check(row: Row) -> None:
    name = row["benchmark"]
    if name not in LAYOUTS:
        raise FastvitError(f"a row is of the benchmark {name!r}, which is not one of {', '.join(LAYOUTS)}")
    if missing := [key for key in LAYOUTS[name].needed if key not in row]:
        raise FastvitError(
            f"a row of {name} of {row.get('date', 'no date')} has no {', '.join(missing)}; "
            "reports are made from the rows that fastvit-bench writes with --json"
        )
