"""Reports of loading: loaders side by side, how they scale, and whole images to memory."""

from collections.abc import Sequence

from benchmarks.report.parts import (
    ORIGIN,
    fastest,
    figure_name,
    how_it_was_measured,
    interval_column,
    interval_of,
    number_column,
    speed_bars,
    split,
    table,
    text_column,
    warnings,
)
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Section, number
from fastvit_train.page.figures import Lines, Panel, Series

__all__ = ["imread_sections", "loader_sections", "scaling_sections"]

_BOUND = "limit"  # a contender that throws the pixels away: no loader
_SETTING = ("suite_case", "data", "repeat", "case", "resolution", "threads", "batch_size", "device", "cache")


def loader_sections(rows: Sequence[Row]) -> list[Section]:
    """Each group of loaders that took turns."""
    return [_loader_section(group) for group in split(rows, *_SETTING, *ORIGIN, "date")]


def _loader_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    ranked = _ranked(rows)
    loaders = [row for row in ranked if row["loader"] != _BOUND] or ranked
    cache = " page cache cold," if first.get("cache") == "cold" else ""
    device = f", to {first['device']}" if first.get("device") not in (None, "cpu") else ""
    what = ": ".join(dict.fromkeys((first.get("suite_case") or first["data"], first["case"])))  # most cases have both
    title = f"{what}, {first['resolution']} px,{cache} {_threads(first)}"
    copies = f"{first['repeat']} × " if first.get("repeat", 1) > 1 else ""
    caption = f"Images per second with 95 % intervals; {copies}{first['data']}, {_threads(first)} each{device}"
    columns = {
        "loader": text_column("loader"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        f"ratio to {first['loader']}": number_column("ratio_to_first", 2),
        "its interval": interval_column("ratio_to_first", 2),
        "CPU µs/image": number_column("cpu_seconds_per_image", scale=1e6),
        "peak MiB": number_column("peak_rss_bytes", scale=2**-20),
        "GPU MiB": number_column("peak_device_memory_bytes", scale=2**-20),
        "GPU busy %": number_column("device_busy_fraction", scale=100),
        "first batch s": number_column("first_batch_seconds", 2),
    }
    blocks: list[Block] = [
        *fastest(loaders, "loader"),
        *warnings(rows),
        speed_bars(
            ranked,
            lambda row: str(row["loader"]),
            name=figure_name("loaders", title),
            caption=caption,
            best=loaders[0],
        ),
        table(ranked, columns, marked=[ranked.index(loaders[0])]),
        how_it_was_measured(rows),
    ]
    return Section(f"Loaders: {title}", blocks)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["images_per_second"], reverse=True)


def _threads(row: Row) -> str:
    return f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"


def scaling_sections(rows: Sequence[Row]) -> list[Section]:
    """How speed changes with threads, and with the number of records."""
    by_threads = split([row for row in rows if row["over"] == "threads"], "data", "case", "resolution", *ORIGIN)
    by_records = split(
        [row for row in rows if row["over"] == "records"], "data", "case", "resolution", "threads", *ORIGIN
    )
    return [*map(_threads_section, by_threads), *map(_records_section, by_records)]


def _threads_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    panels = [
        _panel(rows, "Images/s", "threads", "images_per_second", x_label="threads"),
        _panel(rows, "Share of linear (%)", "threads", "share_of_linear", x_label="threads", scale=100),
    ]
    columns = {
        "loader": text_column("loader"),
        "threads": number_column("threads"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "share of linear %": number_column("share_of_linear", 1, scale=100),
    }
    what = f"{first['case']}, {first['resolution']} px, {first['data']}"
    plot = Lines(
        name=figure_name("scaling threads", what),
        caption=f"Speed over the number of threads with 95 % intervals; {what}",
        panels=panels,
    )
    blocks = [*warnings(rows), plot, table(rows, columns), how_it_was_measured(rows)]
    return Section(f"Scaling with threads: {what}", blocks)


def _records_section(rows: Sequence[Row]) -> Section:
    first = rows[0]
    panels = [
        _panel(rows, "Images/s", "records", "images_per_second", x_label="records", is_log=True),
        _panel(rows, "Opening (s)", "records", "open_seconds", x_label="records", is_log=True),
        _panel(rows, "Peak memory (MiB)", "records", "peak_rss_bytes", x_label="records", is_log=True, scale=2**-20),
    ]
    columns = {
        "loader": text_column("loader"),
        "records": number_column("records"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "opening ms": number_column("open_seconds", 1, scale=1e3),
        "first batch ms": number_column("first_batch_seconds", 1, scale=1e3),
        "peak MiB": number_column("peak_rss_bytes", scale=2**-20),
    }
    what = f"{first['case']}, {first['resolution']} px, {_threads(first)}"
    plot = Lines(
        name=figure_name("scaling records", what),
        caption=f"Speed, time to open and memory over the number of records; {what}",
        panels=panels,
    )
    blocks = [*warnings(rows), plot, table(rows, columns), how_it_was_measured(rows)]
    return Section(f"Scaling with records: {what}", blocks)


def _panel(
    rows: Sequence[Row], title: str, x: str, y: str, *, x_label: str, scale: float = 1.0, is_log: bool = False
) -> Panel:
    series = []
    for loader in dict.fromkeys(row["loader"] for row in rows):
        mine = sorted((row for row in rows if row["loader"] == loader), key=lambda row: row[x])
        ys = [None if row.get(y) is None else scale * row[y] for row in mine]
        intervals = [interval_of(row) for row in mine] if y == "images_per_second" else []
        series.append(Series(loader, [row[x] for row in mine], ys, intervals, has_points=True))
    return Panel(title, x_label, series, is_log_x=is_log, from_zero=True)


def imread_sections(rows: Sequence[Row]) -> list[Section]:
    """Whole images to RGB in memory, for each number of threads."""
    return [_imread_section(group) for group in split(rows, "data", "num_images", "threads", *ORIGIN)]


def _imread_section(rows: Sequence[Row]) -> Section:
    ranked, first = _ranked(rows), rows[0]
    what = f"{first['data']}, {_threads(first)}"
    plot = speed_bars(
        ranked,
        lambda row: str(row["decoder"]),
        name=figure_name("imread", what),
        caption=f"Whole images per second to RGB in memory, with 95 % intervals; {first['num_images']:,} images",
        best=ranked[0],
    )
    columns = {
        "decoder": text_column("decoder"),
        "version": text_column("version"),
        "images/s": number_column("images_per_second"),
        "95 % interval": interval_column(),
        "MP/s": number_column("megapixels_per_second", 1),
        "fastest / this": lambda row: number(ranked[0]["images_per_second"] / row["images_per_second"], 2),
    }
    blocks = [
        *fastest(ranked, "decoder"),
        *warnings(rows),
        plot,
        table(ranked, columns, marked=[0]),
        how_it_was_measured(rows),
    ]
    return Section(f"Whole images: {what}", blocks)
