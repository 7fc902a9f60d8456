"""Reports of training steps, of augmentation and of converting."""

from collections.abc import Sequence

from benchmarks.report.parts import (
    ORIGIN,
    fastest,
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
from fastvit_train.page.content import Block, Bullets, Cards, Section
from fastvit_train.page.figures import Bar, Bars, StackedBars

__all__ = ["augment_sections", "convert_sections", "sweep_sections", "train_sections"]

_SETTING = ("preset", "arch", "backend", "precision", "resolution", "patch_drop", "batch_size", "device", "threads")
_VERDICT = "verdict"


def train_sections(rows: Sequence[Row]) -> list[Section]:
    """Each step whose contenders took turns."""
    return [_train_section(group) for group in split(rows, *_SETTING, *ORIGIN, "date")]


def _train_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    measured = [row for row in rows if row["contender"] != _VERDICT]
    title = f"{_model(first)}, {first['batch_size']} images at {first['resolution']} px"
    columns = {
        "contender": text_column("contender"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "ratio to train": number_column("ratio_to_first", 3),
        "share of the matmuls' rate %": number_column("ratio_to_matmuls", 1, scale=100),
        "GFLOP/s": number_column("model_flops_per_second", scale=1e-9),
        "CPU µs/image": number_column("cpu_seconds_per_image", scale=1e6),
        "peak MiB": number_column("peak_rss_bytes", scale=2**-20),
        "GPU MiB": number_column("peak_device_memory_bytes", scale=2**-20),
    }
    if measured:
        columns = {
            f"ratio to {measured[0]['contender']}" if key == "ratio to train" else key: columns[key] for key in columns
        }
    mine = next((row for row in measured if row["contender"] == "train"), None)
    plot = speed_bars(
        measured,
        lambda row: str(row["contender"]),
        name=figure_name("train", title),
        caption=f"Images per second with 95 % intervals; {first['device']}, {first['threads']} threads",
        best=mine,
    )
    blocks: list[Block] = [
        *(block for row in rows if row["contender"] == _VERDICT for block in _verdict(row)),
        *warnings(rows),
        *([plot] if measured else []),
        *_step_time(measured, title),
        *([table(measured, columns)] if measured else []),
        how_it_was_measured(rows),
    ]
    return Section(f"A training step: {title}", blocks)


def _model(row: Row) -> str:
    return " ".join(str(row[name]) for name in ("preset", "arch") if row.get(name))


def _verdict(row: Row) -> list[Block]:
    headroom = {side: row.get(f"{side}_headroom") for side in ("loader", "step")}
    share = row.get("share_of_matmul_ceiling")
    figures = [
        ("What limits", row.get("bottleneck"), ""),
        *(
            (f"Headroom of the {side}", value and f"{value:.2f} ×", "of what training takes")
            for side, value in headroom.items()
        ),
        ("Share of the matmuls' rate", share and f"{share:.1%}", ""),
    ]
    cards = Cards([(label, text, remark) for label, text, remark in figures if text])
    return [cards, *([Bullets(row["advice"])] if row.get("advice") else [])]


def _step_time(rows: Sequence[Row], title: str) -> list[Block]:
    """Where the time of an image goes, from the speeds of the contenders that leave parts of it out."""
    speed = {row["contender"]: row["images_per_second"] for row in rows}
    if not {"train", "step", "matmuls"} <= speed.keys():
        return []
    whole, step, matmuls = (1000 / speed[name] for name in ("train", "step", "matmuls"))
    parts = {
        "matmuls and convolutions": matmuls,
        "the rest of the step": max(0.0, step - matmuls),
        "what the loader adds": max(0.0, whole - step),
    }
    plot = StackedBars(
        name=figure_name("step time", title),
        caption="Where the time of an image goes, in milliseconds",
        labels=["train"],
        parts={name: [value] for name, value in parts.items()},
        unit=" ms",
    )
    return [plot]


def sweep_sections(rows: Sequence[Row]) -> list[Section]:
    """Each sweep over settings of a step."""
    return [
        _sweep_section(group) for group in split(rows, "preset", "arch", "resolution", "device", "threads", *ORIGIN)
    ]


def _sweep_section(rows: Sequence[Row]) -> Section:
    ran = sorted(
        (row for row in rows if row.get("images_per_second")), key=lambda row: row["images_per_second"], reverse=True
    )
    failed = [row for row in rows if not row.get("images_per_second")]
    best = next((row for row in ran if row.get("is_best")), None)
    title = f"{_model(rows[0])}, {rows[0].get('resolution', '')} px".removesuffix(",  px")
    columns = {
        "batch size": number_column("batch_size"),
        "compile": text_column("compile"),
        "channels_last": _channels_last,
        "precision": text_column("precision"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "GPU MiB": number_column("peak_device_memory_bytes", scale=2**-20),
        "problem": text_column("problem"),
    }
    plot = speed_bars(
        ran,
        _sweep_label,
        name=figure_name("sweep", title),
        caption="Images per second of each setting, with 95 % intervals",
        best=best,
    )
    shown = [*ran, *failed]
    marked = [place for place, row in enumerate(shown) if row is best]
    blocks = [
        *warnings(rows),
        *([plot] if ran else []),
        table(shown, columns, marked=marked),
        how_it_was_measured(rows),
    ]
    return Section(f"Settings of a step: {title}", blocks)


def _channels_last(row: Row) -> str:
    value = row.get("channels_last")
    return "" if value is None else "yes" if value else "no"


def _sweep_label(row: Row) -> str:
    layout = "channels_last" if row.get("channels_last") else ""
    parts = (f"{row['batch_size']}", row.get("precision"), row.get("compile"), layout)
    return ", ".join(part for part in parts if part)


def augment_sections(rows: Sequence[Row]) -> list[Section]:
    """Each policy whose contenders took turns."""
    return [
        _augment_section(group)
        for group in split(rows, "policy", "resolution", "batch_size", "device", "threads", *ORIGIN, "date")
    ]


def _augment_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    ranked = sorted(rows, key=lambda row: row["milliseconds_per_batch"])
    title = f"{first['policy']}, {first['batch_size']} images at {first['resolution']} px"
    bars = [
        Bar(
            row["contender"],
            row["milliseconds_per_batch"],
            f"{row['milliseconds_per_batch']:,.1f}",
            row.get("milliseconds_per_batch_interval"),
            is_marked=row is ranked[0],
        )
        for row in ranked
    ]
    plot = Bars(
        name=figure_name("augment", title),
        caption=f"Milliseconds for a batch, fewer are better; {first['device']}, {first['threads']} threads",
        bars=bars,
    )
    columns = {
        "contender": text_column("contender"),
        "ms/batch": number_column("milliseconds_per_batch", 1),
        "95 % interval": interval_column("milliseconds_per_batch", 1),
        f"times {first['contender']}'s": number_column("ratio_to_first", 2),
        "CPU µs/image": number_column("cpu_seconds_per_image", scale=1e6),
        "peak MiB": number_column("peak_rss_bytes", scale=2**-20),
    }
    blocks = [*warnings(rows), plot, table(ranked, columns, marked=[0]), how_it_was_measured(rows)]
    return Section(f"Augmentation: {title}", blocks)


def convert_sections(rows: Sequence[Row]) -> list[Section]:
    """Each source whose converters took turns."""
    return [_convert_section(group) for group in split(rows, "source", "num_images", "workers", *ORIGIN, "date")]


def _convert_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    ranked = sorted(rows, key=lambda row: row["images_per_second"], reverse=True)
    title = f"{first['source']}, {first['num_images']:,} images"
    plot = speed_bars(
        ranked,
        lambda row: str(row["converter"]),
        name=figure_name("convert", title),
        caption=f"Images converted per second, with 95 % intervals; {first['workers']} workers each",
        best=ranked[0],
    )
    columns = {
        "converter": text_column("converter"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "source MB/s": number_column("source_megabytes_per_second"),
        "stored bytes/image": number_column("stored_bytes_per_image"),
        "ratio to its counterpart": number_column("ratio_to_counterpart", 2),
        "counterpart": text_column("counterpart"),
        "CPU µs/image": number_column("cpu_seconds_per_image", scale=1e6),
        "peak MiB": number_column("peak_rss_bytes", scale=2**-20),
    }
    blocks = [
        *fastest(ranked, "converter"),
        *warnings(rows),
        plot,
        table(ranked, columns, marked=[0]),
        how_it_was_measured(rows),
    ]
    return Section(f"Converting: {title}", blocks)
