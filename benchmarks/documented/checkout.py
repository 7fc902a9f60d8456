"""The documents and rows of a checkout: do they agree?"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.documented.figures import known_figures, unfounded
from benchmarks.documented.pages import filled, names, own_text
from benchmarks.documented.row_checks import row_problems
from benchmarks.documented.table import Table, rendered
from benchmarks.row_files import Row, read_rows
from loaders.errors import FastvitError

__all__ = ["bad_documents", "bad_rows", "write_tables"]


def bad_rows(root: Path) -> Iterator[str]:
    """What is wrong with rows, a line each.

    Raises:
        FastvitError: A file of rows cannot be read.
    """
    for name, rows in _results(root).items():
        for number, row in enumerate(rows, 1):
            yield from (f"benchmarks/results/{name}, row {number}: {problem}" for problem in row_problems(row))


def write_tables(root: Path, tables: Mapping[str, Table]) -> None:
    """Write the tables into the documents.

    Raises:
        FastvitError: A file of rows cannot be read, or a document has a table of an unknown name.
    """
    rows = _rows(root)
    for path in _documents(root):
        page = path.read_text()
        if (written := _filled(path, page, rows, tables)) != page:
            path.write_text(written)


def bad_documents(root: Path, tables: Mapping[str, Table]) -> Iterator[str]:
    """What documents say that rows do not, a line each.

    Raises:
        FastvitError: A file of rows cannot be read, or a document has a table of an unknown name.
    """
    rows = _rows(root)
    known = known_figures(rows)
    shown: set[str] = set()
    for path in _documents(root):
        page, where = path.read_text(), path.relative_to(root)
        shown |= set(names(page))
        if page != _filled(path, page, rows, tables):
            yield f"{where}: its tables are not what the rows say: python -m benchmarks.documented --write"
        yield from (f"{where}:{line}: {problem}" for line, problem in unfounded(own_text(page), known))
    yield from (f"no document shows the table {name}" for name in tables if name not in shown)


def _rows(root: Path) -> list[Row]:
    return [row for rows in _results(root).values() for row in rows]


def _results(root: Path) -> dict[str, list[Row]]:
    """The rows of every file, by its name; each row names its `file`."""
    results = root / "benchmarks" / "results"
    found = {path.relative_to(results).as_posix(): read_rows(path) for path in sorted(results.rglob("*.jsonl"))}
    return {name: [{"file": name, **row} for row in rows] for name, rows in found.items()}


def _documents(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def _filled(path: Path, page: str, rows: list[Row], tables: Mapping[str, Table]) -> str:
    def table(name: str) -> str:
        if name not in tables:
            raise FastvitError(f"there is no table {name!r}; benchmarks/documented has {', '.join(tables)}")
        return rendered(tables[name], _rows_of(tables[name], rows))

    try:
        return filled(page, table)
    except FastvitError as error:
        raise FastvitError(f"{path}: {error}") from error


def _rows_of(table: Table, rows: list[Row]) -> list[Row]:
    """The rows of the table's files, file by file in the order in which it names them."""
    return [row for pattern in table.files for row in rows if fnmatch(row["file"], pattern)]
