"""The tables of the report of `fastvit-bench accept`: of which rows, and with which columns."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.row_files import Row

__all__ = ["Table", "tables"]

Columns = Mapping[str, Callable[[Row], str]]


class Table(NamedTuple):
    """As it is to be read."""

    title: str
    headings: list[str]
    lines: list[list[str]]


def _number(name: str, digits: int = 0, *, scale: float = 1.0, unit: str = "") -> Callable[[Row], str]:
    """A column: a figure of the row, empty where it has none."""

    def cell(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else f"{value * scale:,.{digits}f}{unit}"

    return cell


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name, ""))


def _spread(row: Row) -> str:
    return f"{min(row['rounds']):,.0f}-{max(row['rounds']):,.0f}"


def _goal(row: Row) -> str:
    goal = row.get("goal_images_per_second")
    return "" if goal is None else f"{goal:,} ({row['images_per_second'] / goal:.0%})"


def _accuracy(row: Row) -> str:
    averaged = "" if row["top1_averaged"] is None else f" ({row['top1_averaged']:.2%} averaged)"
    return f"{row['top1']:.2%}{averaged}"


def _accuracy_goal(row: Row) -> str:
    parts = ["" if row["goal_top1"] is None else f"{row['goal_top1']:.0%}"]
    parts += ["" if row["goal_train_seconds"] is None else f"{row['goal_train_seconds']:g} s"]
    return " in ".join(filter(None, parts))


def _share_of_ceiling(row: Row) -> str:
    """Of the rate that a large matmul reaches."""
    ceiling = row["matmul_teraflops"]
    return "" if ceiling is None else f"{row['images_per_second'] * row['flops_per_image'] / (1e12 * ceiling):.1%}"


def _utilization(row: Row) -> str:
    peak = row["peak_flops_per_second"]
    return "" if peak is None else f"{row['images_per_second'] * row['flops_per_image'] / peak:.1%}"


def _splicing(row: Row) -> str:
    """The ratio to the first of those that took turns, and what it should be."""
    goal = "" if row["goal_ratio"] is None else f" (goal {row['goal_ratio']:g})"
    return f"{row['ratio_to_first']:.2f}{goal}"


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
        {"passed": _number("passed"), "failed": _number("failed"), "skipped": _number("skipped")},
    ),
    _Layout(
        "Ceilings of the device",
        "ceilings",
        "value",
        {"what": _text("what"), "value": _number("value", 3), "unit": _text("unit")},
    ),
    _Layout(
        "Training on noise in memory",
        "train",
        "images_per_second",
        {
            "model": _text("model"),
            "variant": _text("variant"),
            "images/s": _number("images_per_second"),
            "rounds": _spread,
            "goal": _goal,
            "share of the matmul ceiling": _share_of_ceiling,
            "of the maker's peak": _utilization,
            "ms per step": _number("step_milliseconds", 2),
            "GiB": _number("peak_device_memory_bytes", 1, scale=2**-30),
            "first step s": _number("first_step_seconds", 1),
        },
    ),
    _Layout(
        "Where a step's time goes",
        "train",
        "longest_kernels",
        {
            "model": _text("model"),
            "variant": _text("variant"),
            "device ms": _number("device_milliseconds", 2),
            "device idle": _number("device_idle_fraction", 1, scale=100, unit=" %"),
            "host ms": _number("host_milliseconds", 2),
            "kernels": _number("kernels_per_step"),
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
            "what": _text("what"),
            "threads": _text("threads"),
            "images/s": _number("images_per_second"),
            "goal": _goal,
            "device without data": _number("data_wait_fraction", 2, scale=100, unit=" %"),
        },
    ),
    _Layout(
        "Killed and resumed, with deterministic algorithms",
        "resume",
        "steps",
        {
            "preset": _text("preset"),
            "steps": _number("steps"),
            "resumed at": _number("resumed_at_step"),
            "result": lambda row: ", ".join(row["different"]) or "the same bits",
            "without a deterministic kernel": lambda row: "; ".join(row["without_deterministic_kernels"]),
        },
    ),
    _Layout(
        "Augmentation of a batch",
        "augmentation",
        "policy",
        {
            "policy": _text("policy"),
            "images": _number("batch_size"),
            "px": _number("resolution"),
            "ms": _number("milliseconds_per_batch", 2),
            "device ms": _number("device_milliseconds_per_batch", 2),
            "kernels": _number("kernels_per_batch"),
        },
    ),
    _Layout(
        "Decoding JPEGs",
        "decoding",
        "decoder",
        {
            "decoder": _text("decoder"),
            "photos": _text("photos"),
            "threads": _text("threads"),
            "images/s": _number("images_per_second"),
            "rounds": _spread,
            "goal": _goal,
            "ratio to the first": _splicing,
            "CPU us/image": _number("cpu_seconds_per_image", scale=1e6),
            "busy CPUs": _number("busy_cores", 2),
            "device busy": _number("device_busy_fraction", scale=100, unit=" %"),
        },
    ),
    _Layout(
        "Decoding while the device is busy",
        "corruption",
        "steps",
        {
            "decoder": _text("suspect"),
            "steps": _number("steps"),
            "images": _number("images"),
            "wrong batches": _number("corrupted_batches"),
            "overwritten tensors": _number("overwritten_tensors"),
            "largest difference, levels": _number("largest_difference"),
        },
    ),
    _Layout(
        "CIFAR-10",
        "accuracy",
        "top1",
        {
            "preset": _text("preset"),
            "epochs": _text("epochs"),
            "top-1": _accuracy,
            "training s": _number("train_seconds", 1),
            "goal": _accuracy_goal,
            "of it first steps s": _number("startup_seconds", 1),
            "evaluation s": _number("eval_seconds", 1),
            "images/s": _number("images_per_second"),
        },
    ),
    _Layout(
        "First steps, all at the same time",
        "prepare",
        "first_step_seconds",
        {"what": _text("model"), "s": _number("first_step_seconds", 1)},
    ),
)


def tables(rows: list[Row]) -> list[Table]:
    """All that rows say; a table without lines is of a stage that found nothing."""
    matmul = next((row["value"] for row in rows if row.get("what") == "matmul"), None)
    known = [{**row, "matmul_teraflops": matmul} for row in rows]
    return [
        Table(
            layout.title,
            list(layout.columns),
            [
                [cell(row) for cell in layout.columns.values()]
                for row in known
                if row["stage"] == layout.stage and layout.figure in row
            ],
        )
        for layout in _LAYOUTS
    ]
