"""A table of a document: which rows it is made of, and its columns."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.intervals import bootstrap_interval
from benchmarks.row_files import Row

__all__ = [
    "NOT_MEASURED",
    "Column",
    "Columns",
    "Line",
    "Table",
    "between",
    "by",
    "calculated",
    "code",
    "distinct",
    "figure",
    "first",
    "having",
    "number",
    "percent",
    "rate",
    "rendered",
    "text",
    "value",
]

NOT_MEASURED = "Not measured yet.\n"

Line = Sequence[Row]
"""The rows that one line of a table is made of."""
Column = Callable[[Line], str]
Columns = Mapping[str, Column]


@dataclass(frozen=True, kw_only=True)
class Table:
    """How a table is made of rows."""

    files: tuple[str, ...]
    """Names in `benchmarks/results`, which may have a `*`. A file that is not there yet has no rows."""
    where: Callable[[Row], bool]
    """Which rows of the files count."""
    columns: Columns | Callable[[Line], Columns]
    """What makes a cell of a line, by heading; or what makes the columns of all rows. Those without any text are left
    out."""
    line: Callable[[Row], Hashable] | None = None
    """Rows for which this is the same make one line, those for which it is `None` none; without it, each is a line."""
    order: Callable[[Line], float] | None = None
    """Lines with lower values come first; without it, lines are in the order of their rows."""


def by(*names: str) -> Callable[[Row], Hashable]:
    """Rows that are alike in these fields make one line."""
    return lambda row: tuple(value(row, name) for name in names)


def having(**values: object) -> Callable[[Row], bool]:
    """A condition: fields have these values. A field may be `machine__cpu`, which is `cpu` of `machine`."""
    return lambda row: all(value(row, name) == wanted for name, wanted in values.items())


def value(row: Row, name: str) -> object:
    """A field of a row, `None` where there is none; `machine__cpu` is `cpu` of `machine`."""
    found: object = row
    for part in name.split("__"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def distinct(rows: Line, name: str) -> list[object]:
    """The values of a field, each once, in the order of the rows."""
    return list(dict.fromkeys(found for row in rows if (found := value(row, name)) is not None))


def first(line: Line, name: str, **match: object) -> object:
    """A field of the first row of a line that has it, and has these values in others; `None` if there is none."""
    found = (value(row, name) for row in line if having(**match)(row))
    return next((each for each in found if each is not None), None)


def figure(line: Line, name: str, **match: object) -> float:
    """The same, of a field that is a number.

    Raises:
        LookupError: There is none.
    """
    found = first(line, name, **match)
    if not isinstance(found, int | float):
        raise LookupError(name)
    return found


def text(name: str, **match: object) -> Column:
    """A column: a field as it is."""
    return lambda line: "" if (found := first(line, name, **match)) is None else str(found)


def code(name: str, **match: object) -> Column:
    """A column: a field that is an option, a name or something else that is typed."""
    cell = text(name, **match)
    return lambda line: f"`{cell(line)}`" if cell(line) else ""


def number(name: str, digits: int = 0, *, scale: float = 1, unit: str = "", **match: object) -> Column:
    """A column: a field as a number with its unit."""
    return calculated(lambda line: figure(line, name, **match) * scale, digits, unit=unit)


def percent(name: str, digits: int = 1, **match: object) -> Column:
    """A column: a fraction."""
    return number(name, digits, scale=100, unit=" %", **match)


def calculated(formula: Callable[[Line], float], digits: int = 0, *, unit: str = "") -> Column:
    """A column: a number that is calculated from a line; empty where a figure for it is missing."""

    def cell(line: Line) -> str:
        try:
            return f"{formula(line):,.{digits}f}{unit}"
        except LookupError:
            return ""

    return cell


def rate(name: str = "images_per_second", digits: int = 0, **match: object) -> Column:
    """A column: the median of the rounds and in parentheses its 95 % interval.

    Of rows that say no more than the lowest and highest round, it is these two.
    """

    def cell(line: Line) -> str:
        row = next((row for row in line if having(**match)(row) and row.get(name) is not None), None)
        if row is None:
            return ""
        median = f"{row[name]:,.{digits}f}"
        ends = row.get(f"{name}_interval") or row.get("lowest_and_highest_round")
        if ends is None and "rounds" in row:
            ends = bootstrap_interval(row["rounds"])
        return f"{median} ({between(*ends, digits=digits)})" if ends else median

    return cell


def between(low: float, high: float, *, digits: int) -> str:
    """Two ends, as they are written in a table."""
    return f"{low:,.{digits}f}\N{EN DASH}{high:,.{digits}f}"


def rendered(table: Table, rows: Sequence[Row]) -> str:
    """The table as Markdown, of the rows of its files, and where they are from."""
    rows = [row for row in rows if table.where(row)]
    if not rows:
        return NOT_MEASURED
    lines = _lines(rows, table.line)
    if table.order:
        lines.sort(key=table.order)
    columns = table.columns(rows) if callable(table.columns) else table.columns
    cells = {name: [column(line) for line in lines] for name, column in columns.items()}
    filled = {name: column for name, column in cells.items() if any(column)}
    markdown = [list(filled), ["---"] * len(filled), *zip(*filled.values(), strict=True)]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in markdown)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped) + f"\n{_origin(rows)}\n"


def _lines(rows: Sequence[Row], key: Callable[[Row], Hashable] | None) -> list[Line]:
    if key is None:
        return [[row] for row in rows]
    found: dict[Hashable, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return [line for of, line in found.items() if of is not None]


def _origin(rows: Sequence[Row]) -> str:
    """The files of the rows, with the commits that were measured where they are known."""
    parts = []
    for name in distinct(rows, "file"):
        commits = distinct([row for row in rows if row["file"] == name], "commit")
        measured = f" (commit {', '.join(str(commit)[:7] for commit in commits)})" if commits else ""
        parts.append(f"`benchmarks/results/{name}`{measured}")
    return f"Rows: {', '.join(parts)}."
