"""Figures of reports: bars with intervals, lines, stacked bars; as SVG for a page and as PNG.

The SVG takes its colours from CSS variables and its font from the page, so that it follows dark and light. A page has
each figure in two widths, of which the style shows the one that suits the screen: letters keep their size on a phone.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

__all__ = ["COLORS", "NARROW", "WIDE", "Bar", "Bars", "Lines", "Panel", "Plot", "Series", "StackedBars", "png", "svg"]

WIDE, NARROW = 920, 340
"""The two widths, in CSS pixels."""

COLORS: Mapping[str, tuple[str, str]] = {
    "surface": ("#ffffff", "#16181d"),
    "text": ("#1c2024", "#e6e8eb"),
    "muted": ("#5d6673", "#9aa3b0"),
    "grid": ("#e2e5ea", "#2c3038"),
    "rest": ("#b4bdca", "#4d5666"),
    "series-1": ("#3f51b5", "#8fa1ff"),
    "series-2": ("#d9730d", "#ffa94d"),
    "series-3": ("#0b8a7a", "#3fc9b4"),
    "series-4": ("#c2255c", "#f783ac"),
    "series-5": ("#7048a8", "#b197fc"),
    "series-6": ("#5c7a14", "#a9d14a"),
    "series-7": ("#8a5a44", "#d0a58f"),
    "series-8": ("#46607a", "#8db1d3"),
}
"""Each colour of a page on a light and on a dark ground; the CSS variables have the same names."""

_SERIES = [f"series-{number}" for number in range(1, 9)]
_FONT_SIZE = 13.0
_BAR_HEIGHT = 26
_PANEL_HEIGHT = 240
_PNG_COLORS = 128
_LABEL_SHARE = 0.1  # of the width
_PADDING = 6  # all in CSS pixels


class Bar(NamedTuple):
    """One bar."""

    label: str
    value: float
    text: str
    """Written at its end."""
    interval: tuple[float, float] | None = None
    is_marked: bool = False
    """Whether it stands out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Horizontal bars from zero, the first one at the top, with intervals where they are known."""

    name: str
    """Of its PNG files."""
    caption: str
    """What is seen, with the unit."""
    bars: Sequence[Bar]


class Series(NamedTuple):
    """One line; a value that is not known leaves a gap."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()
    """Of each value."""
    has_points: bool = False
    is_dashed: bool = False
    color: str | None = None
    """One of `COLORS`; when not given, each label has its own."""


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    x_label: str
    series: Sequence[Series]
    is_log_x: bool = False
    from_zero: bool = False
    """Whether the vertical axis begins at zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """Lines in one or more panels: next to each other, or on a phone below each other."""

    name: str
    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True, slots=True)
class StackedBars:
    """Horizontal bars, each made of parts."""

    name: str
    caption: str
    labels: Sequence[str]
    """Of the bars."""
    parts: Mapping[str, Sequence[float]]
    """By name, a number for each bar."""
    unit: str
    """Behind each number, such as " s"."""


Plot = Bars | Lines | StackedBars


def svg(plot: Plot, width: int) -> str:
    """The figure as an `<svg>` element for a page whose CSS has the variables `COLORS`.

    Args:
        plot: What is drawn.
        width: In CSS pixels.
    """
    options = {"svg.fonttype": "none", "svg.hashsalt": f"{plot.name} {width}"}
    written = _saved(plot, width, ground=0, options=options, file_format="svg", dpi=72).decode()
    text = written[written.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # such names are in every figure of a page
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--font)", text)
    names = {light: name for name, (light, _) in COLORS.items()}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{names[found[0]]})", text)
    # Inside HTML neither its size nor its name spaces are wanted.
    text = re.sub(r' (width|height)="[\d.]+pt"| xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    return re.sub(r"\n\s*\n", "\n", text).strip()


def png(plot: Plot, *, is_dark: bool = False, width: int = WIDE) -> bytes:
    """The figure as a PNG of twice as many pixels as `width`, on a light or a dark ground."""
    file = BytesIO()
    with Image.open(BytesIO(_saved(plot, width, ground=int(is_dark), options={}, file_format="png", dpi=144))) as image:
        image.convert("RGB").quantize(_PNG_COLORS).save(file, format="png", optimize=True)  # a third of the size
    return file.getvalue()


def _saved(plot: Plot, width: int, *, ground: int, options: dict[str, str], file_format: str, dpi: int) -> bytes:
    color = {name: pair[ground] for name, pair in COLORS.items()}
    style: dict[Any, Any] = {
        "font.size": _FONT_SIZE,
        "axes.titlesize": _FONT_SIZE,
        "axes.labelsize": _FONT_SIZE - 1,
        "xtick.labelsize": _FONT_SIZE - 1,
        "ytick.labelsize": _FONT_SIZE - 1,
        "legend.fontsize": _FONT_SIZE - 1,
        "text.parse_math": False,  # names of files may hold a $
        "text.color": color["text"],
        "axes.labelcolor": color["muted"],
        "axes.edgecolor": color["grid"],
        "xtick.color": color["muted"],
        "ytick.color": color["muted"],
        "grid.color": color["grid"],
        **options,
    }
    file = BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        warnings.filterwarnings("ignore", "Tight layout not applied|constrained_layout not applied")
        layout = ConstrainedLayoutEngine(h_pad=_PADDING / 72, w_pad=_PADDING / 72)
        figure = Figure(figsize=(width / 72, 1), dpi=72, layout=layout)
        match plot:
            case Bars():
                _draw_bars(figure, plot, color)
            case StackedBars():
                _draw_stacked_bars(figure, plot, color)
            case Lines():
                _draw_lines(figure, plot, color)
        metadata = {"Date": None} if file_format == "svg" else {"Software": None}
        ground_color = "none" if file_format == "svg" else color["surface"]
        figure.savefig(file, format=file_format, dpi=dpi, facecolor=ground_color, metadata=metadata)
    return file.getvalue()


def _bare_axes(figure: Figure, labels: Sequence[str], color: Mapping[str, str]) -> Axes:
    """Axes for horizontal bars, whose numbers stand at the bars."""
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.set_yticks(range(len(labels)), labels, color=color["text"])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0)
    return axes


def _draw_bars(figure: Figure, plot: Bars, color: Mapping[str, str]) -> None:
    width = figure.get_size_inches()[0]
    figure.set_size_inches(width, (_BAR_HEIGHT * len(plot.bars) + 12) / 72)
    axes = _bare_axes(figure, [bar.label for bar in plot.bars], color)
    # An interval that is much longer than all bars is cut: the bars are to be seen.
    cut = 1.5 * max(bar.value for bar in plot.bars)
    ends = [max(bar.value, min(cut, bar.interval[1]) if bar.interval else 0.0) for bar in plot.bars]
    longest = max(len(bar.text) for bar in plot.bars)
    # The label of the longest bar has to fit behind it.
    label_share = min(0.6, (longest * _FONT_SIZE * 0.62 + 8) / (72 * width * 0.72))
    limit = max([*ends, 1e-9]) / (1 - label_share)
    axes.set_xlim(0, limit)
    for place, (bar, end) in enumerate(zip(plot.bars, ends, strict=True)):
        axes.barh(place, bar.value, height=0.66, color=color["series-1" if bar.is_marked else "rest"])
        if bar.interval is not None:
            low, high = bar.interval
            axes.plot((low, min(high, end)), (place, place), color=color["text"], linewidth=1.4, solid_capstyle="butt")
            marks = [low, *([high] if high <= end else [])]
            axes.plot(marks, [place] * len(marks), "|", color=color["text"], markersize=7, markeredgewidth=1.4)
        weight = "bold" if bar.is_marked else "normal"
        _write_behind(axes, end, place, bar.text, weight=weight)


def _write_behind(axes: Axes, end: float, place: int, text: str, *, weight: str = "normal") -> None:
    """Write a number at the end of a bar, some pixels behind it."""
    axes.annotate(text, (end, place), xytext=(7, 0), textcoords="offset points", va="center", weight=weight)


def _draw_stacked_bars(figure: Figure, plot: StackedBars, color: Mapping[str, str]) -> None:
    width = figure.get_size_inches()[0]
    columns = _legend_columns(list(plot.parts), width)
    legend_lines = math.ceil(len(plot.parts) / columns)
    figure.set_size_inches(width, (_BAR_HEIGHT * len(plot.labels) + 20 + 24 * legend_lines) / 72)
    axes = _bare_axes(figure, plot.labels, color)
    totals = [sum(values) for values in zip(*plot.parts.values(), strict=True)]
    room = 1.0 - min(0.45, 80 / (72 * width))
    axes.set_xlim(0, max([*totals, 1e-9]) / room)
    left = [0.0] * len(plot.labels)
    for series, (name, values) in zip(_SERIES, plot.parts.items(), strict=False):
        places = range(len(plot.labels))
        axes.barh(places, values, left=left, height=0.66, color=color[series], label=name)
        left = [start + value for start, value in zip(left, values, strict=True)]
    for place, total in enumerate(totals):
        _write_behind(axes, total, place, f"{_short(total)}{plot.unit}")
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, handlelength=0.9, borderaxespad=0.0)


def _draw_lines(figure: Figure, plot: Lines, color: Mapping[str, str]) -> None:
    width = figure.get_size_inches()[0]
    is_wide = 72 * width > (WIDE + NARROW) / 2
    columns = min(3, len(plot.panels)) if is_wide else 1
    rows = math.ceil(len(plot.panels) / columns)
    names = list(dict.fromkeys(series.label for panel in plot.panels for series in panel.series))
    legend_columns = _legend_columns(names, width)
    legend_lines = math.ceil(len(names) / legend_columns) if len(names) > 1 else 0
    figure.set_size_inches(width, (_PANEL_HEIGHT * rows + 22 * legend_lines) / 72)
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    handles: dict[str, Line2D] = {}
    for axes, panel in zip(all_axes, plot.panels, strict=False):
        for number, series in enumerate(panel.series):
            chosen = series.color or _SERIES[names.index(series.label) % len(_SERIES)]
            handles.setdefault(series.label, _draw_series(axes, series, color[chosen], number))
        _finish_panel(axes, panel)
    for axes in all_axes[len(plot.panels) :]:
        axes.set_visible(False)
    if legend_lines:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",
            ncols=legend_columns,
            frameon=False,
            handlelength=1.2,
            borderaxespad=0.0,
        )


def _draw_series(axes: Axes, series: Series, color: str, number: int) -> Line2D:
    ys = [math.nan if y is None else y for y in series.ys]
    known = [(x, pair) for x, pair in zip(series.xs, series.intervals, strict=False) if pair is not None]
    if known:
        lows, highs = [pair[0] for _, pair in known], [pair[1] for _, pair in known]
        axes.fill_between([x for x, _ in known], lows, highs, color=color, alpha=0.18, linewidth=0)
    style = "--" if series.is_dashed else "-"
    marker = "o" if series.has_points or sum(not math.isnan(y) for y in ys) == 1 else ""
    (line,) = axes.plot(
        series.xs, ys, style, color=color, marker=marker, markersize=4, linewidth=1.8, zorder=3 + number
    )
    return line


def _finish_panel(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", linewidth=1)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", pad=8)
    axes.set_axisbelow(True)
    axes.set_title(panel.title, loc="left", weight="bold")
    axes.set_xlabel(panel.x_label)
    if panel.is_log_x:
        axes.set_xscale("log", base=10)
        places = _apart(sorted({x for series in panel.series for x in series.xs}))
        if len(places) <= 6:
            axes.set_xticks(places)
        else:
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if panel.from_zero:
        axes.set_ylim(bottom=0)


def _apart(places: Sequence[float]) -> list[float]:
    """Places on a logarithmic axis, from low to high, without those whose labels would touch the one before."""
    kept: list[float] = []
    for place in places:
        if not kept or place / kept[-1] >= (places[-1] / places[0]) ** _LABEL_SHARE:
            kept.append(place)
    return kept


def _legend_columns(names: Sequence[str], width: float) -> int:
    """How many names stand next to each other: as many as fit, in lines of the same length."""
    longest = max((len(name) for name in names), default=1)
    most = max(1, int(72 * width / (longest * _FONT_SIZE * 0.6 + 44)))
    return max(1, math.ceil(len(names) / math.ceil(max(1, len(names)) / most)))


def _short(value: float) -> str:
    """A number with as many digits as count, and with thousands separated."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.4g}"
