"""What reports of different benchmarks have in common: groups of rows, columns, bars of speeds, how sure they are."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.intervals import Interval, bootstrap_interval
from benchmarks.row_files import Row
from fastvit_train.page.content import Block, Cell, Facts, Folded, Notes, Number, Paragraph, Table, number
from fastvit_train.page.figures import Bar, Bars
from fastvit_train.page.runs import environment_facts

__all__ = [
    "ORIGIN",
    "Columns",
    "fastest",
    "figure_name",
    "how_it_was_measured",
    "interval_column",
    "interval_of",
    "machine_name",
    "number_column",
    "speed_bars",
    "split",
    "table",
    "text_column",
    "warnings",
]

Columns = Mapping[str, Callable[[Row], Cell]]

ORIGIN = ("command", "commit", "machine")
"""The keys in which rows of one command are the same."""

_MANY_WARNINGS = 4


def split(rows: Iterable[Row], *names: str) -> list[list[Row]]:
    """The rows in groups with the same values of these keys."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(json.dumps([row.get(name) for name in names]), []).append(row)
    return list(found.values())


def number_column(name: str, digits: int = 0, *, scale: float = 1.0, unit: str = "") -> Callable[[Row], Cell]:
    """A column with a figure of the row; empty where it has none."""
    return lambda row: number(row.get(name), digits, scale=scale, unit=unit)


def text_column(name: str) -> Callable[[Row], Cell]:
    """A column with a text of the row."""
    return lambda row: "" if row.get(name) is None else str(row[name])


def interval_of(row: Row, name: str = "images_per_second") -> Interval | None:
    """The 95 % interval of a figure: as the row has it, else, of a speed, from its rounds."""
    interval = row.get(f"{name}_interval")
    if interval is not None:
        return interval[0], interval[1]
    return bootstrap_interval(row["rounds"]) if name == "images_per_second" and row.get("rounds") else None


def interval_column(name: str = "images_per_second", digits: int = 0) -> Callable[[Row], Cell]:
    """A column with the 95 % interval of a figure, sorted by its lower end."""

    def cell(row: Row) -> Cell:
        interval = interval_of(row, name)
        return "" if interval is None else Number(interval[0], "–".join(f"{end:,.{digits}f}" for end in interval))

    return cell


def table(rows: Sequence[Row], columns: Columns, *, marked: Sequence[int] = ()) -> Table:
    """The rows with those of the columns that say something."""
    cells = {heading: [cell(row) for row in rows] for heading, cell in columns.items()}
    filled = {heading: column for heading, column in cells.items() if any(column)}
    return Table(list(filled), [list(line) for line in zip(*filled.values(), strict=True)], marked)


def speed_bars(rows: Sequence[Row], label: Callable[[Row], str], *, name: str, caption: str, best: Row | None) -> Bars:
    """A bar with its interval for each row, in their order; the best one stands out."""
    bars = [
        Bar(
            label(row),
            row["images_per_second"],
            f"{row['images_per_second']:,.0f}",
            interval_of(row),
            is_marked=row is best,
        )
        for row in rows
    ]
    return Bars(name=name, caption=caption, bars=bars)


def fastest(rows: Sequence[Row], name: str) -> list[Block]:
    """Who is fastest, by how much, and how sure that is.

    Args:
        rows: With speeds, the fastest first.
        name: The key of the contender's name.
    """
    if len(rows) < 2:
        return []
    first, second = rows[0], rows[1]
    mine, theirs = interval_of(first), interval_of(second)
    sure = "" if mine is None else f" (95 % interval {mine[0]:,.0f} to {mine[1]:,.0f})"
    ratio = first["images_per_second"] / second["images_per_second"]
    text = (
        f"{first[name]} is the fastest: {first['images_per_second']:,.0f} images/s{sure}, "
        f"{ratio:.2f} times as fast as {second[name]}."
    )
    if mine is not None and theirs is not None and mine[0] <= theirs[1]:
        text += " The intervals of the two overlap: they cannot be told apart."
    return [Paragraph(text)]


def figure_name(*parts: str) -> str:
    """The name of a figure's files, of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def machine_name(row: Row) -> str:
    """The card, if there is one, and the CPU of a row's machine."""
    machine = row["machine"]
    card = f"{machine['gpu']['name']}, " if machine.get("gpu") else ""
    return f"{card}{machine['cpu']}, {machine['cores']} cores"


def warnings(rows: Iterable[Row]) -> list[Block]:
    """What was wrong with the machine while the rows were measured."""
    found = [line for row in rows for line in (row.get("noise") or {}).get("warnings", [])]
    found += [row["cold_note"] for row in rows if row.get("cold_note")]
    lines = list(dict.fromkeys(found))
    if len(lines) > _MANY_WARNINGS:
        return [Notes(lines[:2]), Folded(f"All {len(lines)} warnings", [Notes(lines)])]
    return [Notes(lines)] if lines else []


def how_it_was_measured(rows: Sequence[Row]) -> Folded:
    """Command, date, commit, versions and machine of rows that were measured together."""
    return Folded("How it was measured", [Facts(environment_facts(rows[0]))])
