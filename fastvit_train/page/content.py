"""What a report consists of, whether it is read as HTML or as Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from fastvit_train.page.figures import Plot

__all__ = [
    "Block",
    "Bullets",
    "Cards",
    "Cell",
    "Facts",
    "Folded",
    "Notes",
    "Number",
    "Page",
    "Paragraph",
    "Section",
    "Table",
    "duration",
    "number",
    "plain_name",
]


class Number(NamedTuple):
    """A cell that is sorted by its value."""

    value: float
    text: str
    """As it is shown."""


Cell = str | Number
"""What a table's cell holds; an empty text where there is nothing to say."""


class Table(NamedTuple):
    """Lines of cells under headings; a reader can sort them."""

    headings: Sequence[str]
    """With units."""
    lines: Sequence[Sequence[Cell]]
    marked: Sequence[int] = ()
    """The lines that stand out, such as the best."""


class Paragraph(NamedTuple):
    """A few sentences."""

    text: str


class Bullets(NamedTuple):
    """Short points."""

    lines: Sequence[str]


class Notes(NamedTuple):
    """Warnings, which are not to be overlooked."""

    lines: Sequence[str]


class Facts(NamedTuple):
    """Names and what they stand for, such as of an environment; those without a text are left out."""

    pairs: Sequence[tuple[str, str]]


class Cards(NamedTuple):
    """The few figures that matter most: each a label, the figure, and a remark that may be empty."""

    figures: Sequence[tuple[str, str, str]]


class Folded(NamedTuple):
    """Details that a reader opens with a click."""

    summary: str
    blocks: Sequence["Block"]


Block = Paragraph | Bullets | Notes | Facts | Cards | Table | Folded | Plot


class Section(NamedTuple):
    """A part of the page with a heading of its own."""

    title: str
    blocks: Sequence[Block]


class Page(NamedTuple):
    """A whole report."""

    title: str
    lead: str
    """What the reader has in front of them, in a sentence."""
    sections: Sequence[Section]


def number(value: float | None, digits: int = 0, *, scale: float = 1.0, unit: str = "") -> Cell:
    """A cell with a number: times `scale`, with so many digits behind the point; empty where there is none.

    Examples:
        >>> from fastvit_train.page.content import number
        >>> number(5860.8)
        Number(value=5860.8, text='5,861')
        >>> number(0.0157, 1, scale=100, unit=" %").text
        '1.6 %'
        >>> number(None)
        ''
    """
    return "" if value is None else Number(scale * value, f"{scale * value:,.{digits}f}{unit}")


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    Examples:
        >>> from fastvit_train.page.content import duration
        >>> [duration(seconds) for seconds in (90, 600, 9000)]
        ['90.0 s', '10.0 min', '2.5 h']
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain_name(name: str) -> str:
    """A file's name as a line of text, whatever bytes and line breaks it has."""
    return " ".join(name.encode(errors="surrogateescape").decode(errors="replace").split())
