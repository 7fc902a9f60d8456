"""The report of `fastvit-bench accept`: one page, as Markdown and as HTML that needs nothing else."""

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.rows import Row

__all__ = ["read_rows", "write_report"]

Columns = Mapping[str, Callable[[Row], str]]


class _Table(NamedTuple):
    title: str
    headings: list[str]
    lines: list[list[str]]


def read_rows(path: Path, *, skip_bytes: int = 0) -> list[Row]:
    """The rows of a file, without those in its first bytes."""
    with path.open("rb") as file:
        file.seek(skip_bytes)
        return [json.loads(line) for line in file]


def write_report(folder: Path, rows: list[Row], *, minutes: float, seconds: float, is_done: bool) -> None:
    """Write report.md and report.html.

    Args:
        folder: Where they go.
        rows: Of this run so far.
        minutes: How long it may take.
        seconds: How long it has taken.
        is_done: False while stages are still to come.
    """
    title = "fastvit: acceptance of a machine"
    lines = _summary(rows, minutes=minutes, seconds=seconds, is_done=is_done)
    tables = [table for table in _tables(rows) if table.lines]
    (folder / "report.md").write_text(_markdown(title, lines, tables))
    (folder / "report.html").write_text(_html(title, lines, tables))


def _summary(rows: list[Row], *, minutes: float, seconds: float, is_done: bool) -> list[str]:
    passed, failed, left_out = (
        [row for row in rows if row["status"] == status] for status in ("passed", "failed", "left out")
    )
    verdict = "Not finished." if not is_done else "FAILED." if failed else "All that ran passed."
    counts = f"{len(passed)} rows, {len(failed)} failures, {len(left_out)} left out"
    lines = [f"{verdict} {counts}; {seconds / 60:.1f} of {minutes:g} minutes."]
    if rows:
        lines += _where(rows[0])
    lines += [f"FAILED {row['stage']}, {row['name']}: {row['problem']}" for row in failed]
    lines += [f"Left out {row['stage']}, {row['name']}: {row['reason']}" for row in left_out]
    return lines


def _where(row: Row) -> list[str]:
    machine, versions = row["machine"], row["versions"]
    lines = []
    if row["device"] == "cpu":
        lines.append("A rehearsal on the CPU with small sizes: its figures mean nothing.")
    gpu = machine["gpu"]
    card = f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}; " if gpu else ""
    lines.append(f"{card}{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB")
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines.append(f"{packages}; commit {row['commit'] or 'not known'}{', changed' if row['dirty'] else ''}")
    lines.append(f"Command: {row['command']}")
    return lines


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
        {"decoder": _text("decoder"), "threads": _text("threads"), "images/s": _number("images_per_second")},
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


def _tables(rows: list[Row]) -> list[_Table]:
    matmul = next((row["value"] for row in rows if row.get("what") == "matmul"), None)
    known = [{**row, "matmul_teraflops": matmul} for row in rows]
    return [
        _Table(
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


def _markdown(title: str, lines: list[str], tables: list[_Table]) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"

    parts = [f"# {title}\n\n", "".join(f"- {' '.join(each.split())}\n" for each in lines)]
    for table in tables:
        parts += [f"\n## {table.title}\n\n", line(table.headings), line(["---"] * len(table.headings))]
        parts += [line(cells) for cells in table.lines]
    return "".join(parts)


def _html(title: str, lines: list[str], tables: list[_Table]) -> str:
    def cells(kind: str, texts: list[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in texts) + "</tr>\n"

    items = "".join(f"<li>{html.escape(line)}</li>\n" for line in lines)
    body = "".join(
        f"<h2>{html.escape(table.title)}</h2>\n<table>\n{cells('th', table.headings)}"
        f"{''.join(cells('td', line) for line in table.lines)}</table>\n"
        for table in tables
    )
    style = (
        "body{font:14px sans-serif;margin:2em;max-width:90em}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left;vertical-align:top}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{style}</style></head><body><h1>{title}</h1>\n<ul>\n{items}</ul>\n{body}</body></html>\n"
    )
