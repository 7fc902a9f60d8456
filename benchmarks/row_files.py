"""Files of rows: lines of JSON, each of which says what a benchmark found, when, how and on what machine.

It needs nothing but Python, so that documents are made from rows where there is no torch.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError

__all__ = ["Row", "append_rows", "read_rows", "replace_rows"]

Row = dict[str, Any]


def read_rows(path: Path, *, skip_bytes: int = 0) -> list[Row]:
    """The rows of a file, each with the name of its `benchmark`, which rows of old do not say themselves.

    Args:
        path: The file.
        skip_bytes: Without the rows in so many of its first bytes.

    Raises:
        FastvitError: There is no such file, or a line of it is no JSON object.
    """
    try:
        with path.open("rb") as file:
            skipped = file.read(skip_bytes).count(b"\n")
            lines = file.read().splitlines()
    except OSError as error:
        raise FastvitError(f"cannot read rows from {path}: {error.strerror}") from error
    return [_row(line, f"{path}:{number}") for number, line in enumerate(lines, skipped + 1) if line.strip()]


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a file in one write, so that those of several processes do not mix.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        file.write(_lines(rows))


def replace_rows(path: Path, rows: Iterable[Row], *, is_old: Callable[[Row], bool]) -> None:
    """Put rows at the end of a file, which need not be there yet, in place of those that are old.

    Raises:
        FastvitError: The file holds something else than rows.
        OSError: It cannot be written, and stays as it is.
    """
    kept = [row for row in read_rows(path) if not is_old(row)] if path.exists() else []
    with atomic_file(path) as file:
        file.write(_lines([*kept, *rows]))


def _lines(rows: Iterable[Row]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FastvitError(f"{where} is no row, which is a JSON object in one line: {error}") from error
    if not isinstance(row, dict):
        raise FastvitError(f"{where} is no row, which is a JSON object in one line, but a {type(row).__name__}")
    return {"benchmark": "accept" if "stage" in row else "loader"} | row
