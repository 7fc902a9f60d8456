"""Measured figures that a document has outside of its tables: each must be that of a row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.row_files import Row

__all__ = ["KnownFigures", "known_figures", "numbers", "unfounded"]

KnownFigures = Mapping[str, Sequence[float]]
"""All values that the rows have, by unit."""


class _Field(NamedTuple):
    """Fields of rows in which figures of a unit are."""

    name: str
    """What their names contain, as a regular expression."""
    scale: float
    """What one of the unit is to one of the field's."""


_UNITS: Mapping[str, Sequence[_Field]] = {
    "images/s": [_Field("images_per_second|highest_round", 1)],
    "MP/s": [_Field("megapixels_per_second", 1)],
    "PFLOP/s": [_Field("flops_per_second", 1e-15)],
    "TFLOP/s": [_Field("flops_per_second", 1e-12)],
    "GFLOP/s": [_Field("flops_per_second", 1e-9)],
    "TB/s": [_Field("bytes_per_second", 1e-12)],
    "GB/s": [_Field("bytes_per_second", 1e-9)],
    "MB/s": [_Field("bytes_per_second", 1e-6)],
    "ms": [_Field("milliseconds", 1), _Field("(^|_)seconds", 1e3)],
    "µs": [_Field("milliseconds", 1e3), _Field("(^|_)seconds", 1e6)],
    "%": [_Field("fraction|share|top1|accuracy|curve|utilization|ratio|miss", 100)],
}
_UNIT = "|".join(_UNITS)
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_DASH = "\N{EN DASH}"
_FIGURE = re.compile(
    rf"(?<![\w.,])(?P<first>{_NUMBER})(?:(?: to | and | or |{_DASH})(?P<last>{_NUMBER}))? ?(?P<unit>{_UNIT})(?![\w/])"
)
_CELL = re.compile(rf"{_NUMBER}(?:{_DASH}{_NUMBER}| \(.*\))?(?: ?(?P<unit>{_UNIT}|min|s|h|GiB|MiB))?(?: \(.*\))?")
_HEADING = re.compile(rf"\b({_UNIT}|seconds|minutes)(?![\w/])")


def known_figures(rows: Sequence[Row]) -> KnownFigures:
    """What the rows say."""
    fields = [(name, number) for row in rows for name, number in numbers(row)]
    known = {
        unit: [number * each.scale for name, number in fields for each in wanted if re.search(each.name, name)]
        for unit, wanted in _UNITS.items()
    }
    for row in rows:  # the ceilings of a device
        if row.get("unit") in known:
            known[row["unit"]].append(row["value"])
    return known


def unfounded(text: str, known: KnownFigures) -> Iterator[tuple[int, str]]:
    """What is wrong with the figures of a page, whose generated tables and code are left out, with its line.

    Round numbers such as 1,000 images/s are examples, and so are percentages without a decimal.
    """
    heading = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            heading = ""
            yield from ((number, problem) for problem in _in_prose(line, known))
            continue
        heading = heading or line
        for title, cell in zip(_cells(heading), _cells(line), strict=False):
            found = _CELL.fullmatch(cell)
            if found and (found["unit"] or _HEADING.search(title)):
                yield number, f"{cell!r} is a figure in a table that was not made from rows (<!-- rows: NAME -->)"
            else:
                yield from ((number, problem) for problem in _in_prose(cell, known))


def _in_prose(text: str, known: KnownFigures) -> Iterator[str]:
    for found in _FIGURE.finditer(text):
        for written in filter(None, (found["first"], found["last"])):
            if not _is_example(written, found["unit"]) and not _has_row(written, known[found["unit"]]):
                yield f"no row of benchmarks/results has the figure {written} {found['unit']}"


def _is_example(written: str, unit: str) -> bool:
    is_round = len(written.replace(",", "").strip("0")) <= 1
    return "." not in written and (is_round or unit == "%")


def _has_row(written: str, values: Sequence[float]) -> bool:
    digits = len(written.partition(".")[2])
    return any(f"{each:,.{digits}f}" == written for each in values)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def numbers(found: object, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a row, each with the name of its field: `limits__disk` is `disk` of `limits`."""
    if isinstance(found, dict):
        for inner, each in found.items():
            yield from numbers(each, f"{name}__{inner}" if name else inner)
    elif isinstance(found, list):
        for each in found:
            yield from numbers(each, name)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield name, found
