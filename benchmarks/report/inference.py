"""Reports of inference: what models cost, and what accuracy that buys."""

from collections.abc import Sequence
from operator import itemgetter

from benchmarks.report.parts import (
    ORIGIN,
    Columns,
    figure_name,
    how_it_was_measured,
    interval_column,
    number_column,
    speed_bars,
    split,
    table,
    text_column,
    warnings,
)
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Folded, Paragraph, Section, Table, number
from fastvit_train.page.figures import Bar, Bars, Lines, Panel, Series

__all__ = ["inference_sections"]

_MEMORY: Columns = {
    "peak MiB": number_column("peak_rss_bytes", scale=2**-20),
    "GPU MiB": number_column("peak_device_memory_bytes", scale=2**-20),
}


def inference_sections(rows: Sequence[Row]) -> list[Section]:
    """Each command, on each device that it measured."""
    return [_section(group) for group in split(rows, "device", "threads", *ORIGIN)]


def _section(rows: Sequence[Row]) -> Section:
    where = f"{rows[0]['device']}, {rows[0]['threads']} threads"
    blocks: list[Block] = [
        *warnings(rows),
        _sizes(rows),
        *_accuracy_against_cost(rows),
        _speeds(rows),
        _speed_bars(rows, where),
        _latency_bars(rows, where),
        Folded("All cases", [_cases(rows)]),
        how_it_was_measured(rows),
    ]
    return Section(f"Inference: {where}", blocks)


def _speed(row: Row) -> float:
    return float(row["images_per_second"])


def _most_at_once(rows: Sequence[Row]) -> int:
    return max(int(row["batch_size"]) for row in rows)


def _fewest_at_once(rows: Sequence[Row]) -> int:
    return min(int(row["batch_size"]) for row in rows)


def _fastest(rows: Sequence[Row], batch_size: int) -> list[Row]:
    """Of each model the case with so many images at once that is the fastest, the fastest model first."""
    models = split((row for row in rows if row["batch_size"] == batch_size), "model")
    return sorted((max(mine, key=_speed) for mine in models), key=_speed, reverse=True)


def _sizes(rows: Sequence[Row]) -> Table:
    columns = {
        "model": text_column("model"),
        "architecture": text_column("arch"),
        "px": number_column("resolution"),
        "parameters, M": number_column("num_parameters", 1, scale=1e-6),
        "GFLOP/image": number_column("flops_per_image", 2, scale=1e-9),
        "top-1 %": number_column("top1", 2, scale=100),
        "top-1 % per GFLOP": lambda row: number(_per_gflop(row), 1),
    }
    return table([mine[0] for mine in split(rows, "model")], columns)


def _per_gflop(row: Row) -> float | None:
    return None if row.get("top1") is None else 100 * row["top1"] / (row["flops_per_image"] * 1e-9)


def _accuracy_against_cost(rows: Sequence[Row]) -> list[Block]:
    """Who is the most accurate, what the fastest gives up, and a figure; nothing where no accuracy is known."""
    known = [row for row in rows if row.get("top1") is not None]
    if not known:
        return []
    most = _most_at_once(known)
    models = _fastest(known, most)
    if len(models) == 1:
        return [Paragraph(_verdict(models))]
    costs = {
        "GFLOP an image": [row["flops_per_image"] * 1e-9 for row in models],
        f"ms an image, {most:,} at once": [float(f"{_milliseconds(row):.3g}") for row in models],  # its ticks too
    }
    panels = [
        Panel(
            title="Top-1 %",
            x_label=cost,
            series=[
                Series(row["model"], [x], [100 * row["top1"]], has_points=True)
                for row, x in zip(models, xs, strict=True)
            ],
            is_log_x=True,
        )
        for cost, xs in costs.items()
    ]
    plot = Lines(
        name=figure_name("accuracy against cost", models[0]["device"]),
        caption="Accuracy against cost, each model in its fastest case: up and to the left is better",
        panels=panels,
    )
    return [Paragraph(_verdict(models)), plot]


def _verdict(models: Sequence[Row]) -> str:
    """In a sentence; the models come the fastest first."""
    best, quick = max(models, key=itemgetter("top1")), models[0]
    text = f"{best['model']} is the most accurate with {100 * best['top1']:.2f} %, at {_cost(best)} an image"
    if len(models) == 1:
        return f"{best['model']} reaches {100 * best['top1']:.2f} % at {_cost(best)} an image."
    if best is quick:
        return f"{text}, and the fastest."
    points, ratio = 100 * (best["top1"] - quick["top1"]), quick["images_per_second"] / best["images_per_second"]
    return f"{text}; {quick['model']} is {ratio:.1f} times as fast and {points:.2f} points less accurate."


def _cost(row: Row) -> str:
    return f"{row['flops_per_image'] * 1e-9:.2f} GFLOP and {_milliseconds(row):.3g} ms"


def _milliseconds(row: Row) -> float:
    """Of an image, while a batch is computed."""
    return 1000 / float(row["images_per_second"])


def _case(row: Row) -> str:
    return f"{row['precision']}, {'compiled' if row['compiled'] else 'eager'}"


def _speeds(rows: Sequence[Row]) -> Table:
    """Of each model the fastest case, and what bf16 and compiling gain."""
    most, fewest = _most_at_once(rows), _fewest_at_once(rows)
    latencies = {row["model"]: row["latency_seconds"] for row in _fastest(rows, fewest)}
    columns: Columns = {
        "model": text_column("model"),
        f"images/s, {most:,} at once": number_column("images_per_second"),
        "in": _case,
        "bf16, times fp32": lambda row: number(_gain(row, rows, "precision", "bf16", "fp32"), 2),
        "compiled, times eager": lambda row: number(_gain(row, rows, "compiled", True, False), 2),
        f"latency ms, {fewest:,} at once": lambda row: number(latencies.get(row["model"]), 2, scale=1000),
        **_MEMORY,
    }
    return table(_fastest(rows, most), columns)


def _gain(best: Row, rows: Sequence[Row], name: str, mine: object, other: object) -> float | None:
    """How many times as fast the model is with one value of a key as with another, each in its fastest case."""
    alike = [row for row in rows if (row["model"], row["batch_size"]) == (best["model"], best["batch_size"])]
    speeds = [max((_speed(row) for row in alike if row[name] == value), default=None) for value in (mine, other)]
    fast, slow = speeds
    return None if fast is None or slow is None else fast / slow


def _speed_bars(rows: Sequence[Row], where: str) -> Bars:
    most = _most_at_once(rows)
    ranked = _fastest(rows, most)
    return speed_bars(
        ranked,
        lambda row: str(row["model"]),
        name=figure_name("inference images", where),
        caption=f"Images per second, {most:,} at once, each model in its fastest case; {where}",
        best=ranked[0],
    )


def _latency_bars(rows: Sequence[Row], where: str) -> Bars:
    fewest = _fewest_at_once(rows)
    ranked = _fastest(rows, fewest)
    bars = [
        Bar(
            row["model"],
            1000 * row["latency_seconds"],
            f"{1000 * row['latency_seconds']:,.2f}",
            is_marked=row is ranked[0],
        )
        for row in ranked
    ]
    return Bars(
        name=figure_name("inference latency", where),
        caption=f"Median latency in milliseconds, {fewest:,} at once, less is better; {where}",
        bars=bars,
    )


def _cases(rows: Sequence[Row]) -> Table:
    columns = {
        "model": text_column("model"),
        "at once": number_column("batch_size"),
        "precision": text_column("precision"),
        "mode": lambda row: "compiled" if row["compiled"] else "eager",
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "latency ms": number_column("latency_seconds", 2, scale=1000),
        "95th percentile ms": number_column("latency_seconds_p95", 2, scale=1000),
        "compiling s": number_column("compile_seconds", 1),
        **_MEMORY,
    }
    return table(rows, columns)
