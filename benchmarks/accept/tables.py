"""The tables of the report of `fastvit-bench accept`: of which rows, and with which columns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.report.parts import (
    ORIGIN,
    Columns,
    how_it_was_measured,
    number_column,
    split,
    table,
    text_column,
    warnings,
)
from benchmarks.row_files import Row
from fastvit_train.page.content import Cell, Number, Section, number

__all__ = ["accept_sections"]


def _rounds(row: Row) -> Cell:
    low, high = min(row["rounds"]), max(row["rounds"])
    return Number(low, f"{low:,.0f}-{high:,.0f}")


def _goal(row: Row) -> Cell:
    goal = row.get("goal_images_per_second")
    return "" if goal is None else Number(goal, f"{goal:,} ({row['images_per_second'] / goal:.0%})")


def _accuracy(row: Row) -> Cell:
    averaged = "" if row["top1_averaged"] is None else f" ({row['top1_averaged']:.2%} averaged)"
    return Number(row["top1"], f"{row['top1']:.2%}{averaged}")


def _accuracy_goal(row: Row) -> str:
    accuracy, seconds = row.get("goal_top1"), row.get("goal_train_seconds")
    return " in ".join([*([] if accuracy is None else [f"{accuracy:.0%}"]), *([f"{seconds:g} s"] if seconds else [])])


def _share_of(key: str, *, scale: float = 1.0) -> Callable[[Row], Cell]:
    """The share that the model's operations are of a rate."""

    def cell(row: Row) -> Cell:
        ceiling, flops = row.get(key), row.get("flops_per_image")
        share = row["images_per_second"] * flops / (scale * ceiling) if ceiling and flops else None
        return number(share, 1, scale=100, unit="%")

    return cell


def _splicing(row: Row) -> Cell:
    """The ratio to the first of those that took turns, and what it should be."""
    goal = "" if row.get("goal_ratio") is None else f" (goal {row['goal_ratio']:g})"
    return Number(row["ratio_to_first"], f"{row['ratio_to_first']:.2f}{goal}")


def _waits(row: Row) -> str:
    waits = row["synchronisations_in_4_steps"]
    return "; ".join(f"{number} x {where}" for where, number in waits.items()) or "none"


class _Layout(NamedTuple):
    """A table of the rows of a stage that have a certain figure."""

    title: str
    stage: str
    figure: str
    columns: Columns


_LAYOUTS = (
    _Layout(
        "Tests on the device",
        "tests",
        "skipped",
        {"passed": number_column("passed"), "failed": number_column("failed"), "skipped": number_column("skipped")},
    ),
    _Layout(
        "Ceilings of the device",
        "ceilings",
        "value",
        {"what": text_column("what"), "value": number_column("value", 3), "unit": text_column("unit")},
    ),
    _Layout(
        "Training on noise in memory",
        "train",
        "images_per_second",
        {
            "model": text_column("model"),
            "variant": text_column("variant"),
            "images/s": number_column("images_per_second"),
            "rounds": _rounds,
            "goal": _goal,
            "share of the matmul ceiling": _share_of("matmul_teraflops", scale=1e12),
            "of the maker's peak": _share_of("peak_flops_per_second"),
            "ms per step": number_column("step_milliseconds", 2),
            "GiB": number_column("peak_device_memory_bytes", 1, scale=2**-30),
            "first step s": number_column("first_step_seconds", 1),
        },
    ),
    _Layout(
        "Where a step's time goes",
        "train",
        "longest_kernels",
        {
            "model": text_column("model"),
            "variant": text_column("variant"),
            "device ms": number_column("device_milliseconds", 2),
            "device idle": number_column("device_idle_fraction", 1, scale=100, unit=" %"),
            "host ms": number_column("host_milliseconds", 2),
            "kernels": number_column("kernels_per_step"),
            "waits of the host in 4 steps": _waits,
            "kernels that take most, ms": lambda row: "; ".join(
                f"{ms:.2f} {name}" for name, ms, _ in row["longest_kernels"][:5]
            ),
        },
    ),
    _Layout(
        "From JPEGs, native",
        "jpegs",
        "threads",
        {
            "what": text_column("what"),
            "threads": text_column("threads"),
            "images/s": number_column("images_per_second"),
            "goal": _goal,
            "device without data": number_column("data_wait_fraction", 2, scale=100, unit=" %"),
        },
    ),
    _Layout(
        "Killed and resumed, with deterministic algorithms",
        "resume",
        "steps",
        {
            "preset": text_column("preset"),
            "steps": number_column("steps"),
            "resumed at": number_column("resumed_at_step"),
            "result": lambda row: ", ".join(row["different"]) or "the same bits",
            "without a deterministic kernel": lambda row: "; ".join(row["without_deterministic_kernels"]),
        },
    ),
    _Layout(
        "Augmentation of a batch",
        "augmentation",
        "policy",
        {
            "policy": text_column("policy"),
            "images": number_column("batch_size"),
            "px": number_column("resolution"),
            "ms": number_column("milliseconds_per_batch", 2),
            "device ms": number_column("device_milliseconds_per_batch", 2),
            "kernels": number_column("kernels_per_batch"),
        },
    ),
    _Layout(
        "Decoding JPEGs",
        "decoding",
        "decoder",
        {
            "decoder": text_column("decoder"),
            "photos": text_column("photos"),
            "threads": text_column("threads"),
            "images/s": number_column("images_per_second"),
            "rounds": _rounds,
            "goal": _goal,
            "ratio to the first": _splicing,
            "CPU us/image": number_column("cpu_seconds_per_image", scale=1e6),
            "busy CPUs": number_column("busy_cores", 2),
            "device busy": number_column("device_busy_fraction", scale=100, unit=" %"),
        },
    ),
    _Layout(
        "Decoding while the device is busy",
        "corruption",
        "steps",
        {
            "decoder": text_column("suspect"),
            "steps": number_column("steps"),
            "images": number_column("images"),
            "wrong batches": number_column("corrupted_batches"),
            "overwritten tensors": number_column("overwritten_tensors"),
            "largest difference, levels": number_column("largest_difference"),
        },
    ),
    _Layout(
        "CIFAR-10",
        "accuracy",
        "top1",
        {
            "preset": text_column("preset"),
            "epochs": text_column("epochs"),
            "top-1": _accuracy,
            "training s": number_column("train_seconds", 1),
            "goal": _accuracy_goal,
            "of it first steps s": number_column("startup_seconds", 1),
            "evaluation s": number_column("eval_seconds", 1),
            "images/s": number_column("images_per_second"),
        },
    ),
    _Layout(
        "First steps, all at the same time",
        "prepare",
        "first_step_seconds",
        {"what": text_column("model"), "s": number_column("first_step_seconds", 1)},
    ),
)


def accept_sections(rows: Sequence[Row]) -> list[Section]:
    """All that the rows of each run of the command say."""
    return [section for group in split(rows, *ORIGIN) for section in _sections(group)]


def _sections(rows: Sequence[Row]) -> list[Section]:
    matmul = next((row["value"] for row in rows if row.get("what") == "matmul"), None)
    known = [{**row, "matmul_teraflops": matmul} for row in rows]
    found: list[Section] = []
    for layout in _LAYOUTS:
        mine = [row for row in known if row["stage"] == layout.stage and layout.figure in row]
        if mine:
            how = [] if found else [how_it_was_measured(mine)]
            found.append(Section(layout.title, [*warnings(mine), table(mine, layout.columns), *how]))
    return found
