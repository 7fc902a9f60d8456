"""A report as one HTML page that needs nothing else: no network, no other file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from fastvit_train.page.content import (
    Block,
    Bullets,
    Cards,
    Cell,
    Facts,
    Folded,
    Notes,
    Number,
    Page,
    Paragraph,
    Section,
    Table,
)
from fastvit_train.page.figures import COLORS, NARROW, WIDE, Plot, svg

__all__ = ["to_html"]

# A browser asks for nothing then, whatever the page's data may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_NUMBER = ' class="number"'
_SHORT, _LONG = 20, 50  # letters of a cell that stays in one line, and of one that may be broken anywhere
_WIDTHS = {"wide": WIDE, "narrow": NARROW}  # by their class in the style


def to_html(page: Page) -> bytes:
    """The page as a file: in light and dark, readable on a phone, its tables sorted by a click on a heading."""
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(page.title)}</h1>\n<p>{escape(page.lead)}</p>\n{_contents(page)}</header>\n<main>\n"
        f"{''.join(_section(number, section) for number, section in enumerate(page.sections, start=1))}"
        f"</main>\n<script>\n{_file('page.js')}</script>\n</body>\n</html>\n"
    )
    return text.encode(errors="replace")


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def _style() -> str:
    light, dark = ("".join(f"--{name}:{pair[ground]};" for name, pair in COLORS.items()) for ground in (0, 1))
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n{_file('page.css')}"


def _contents(page: Page) -> str:
    """Links to the sections, where there are several."""
    if len(page.sections) < 3:
        return ""
    links = "".join(
        f'<li><a href="#section-{number}">{escape(section.title)}</a></li>\n'
        for number, section in enumerate(page.sections, start=1)
    )
    return f'<nav aria-label="Contents"><ul>\n{links}</ul></nav>\n'


def _section(number: int, section: Section) -> str:
    title = f"<h2>{escape(section.title)}</h2>\n"
    return f'<section id="section-{number}">\n{title}{"".join(map(_block, section.blocks))}</section>\n'


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{escape(text)}</p>\n"
        case Bullets(lines):
            return _list(lines)
        case Notes(lines):
            return f'<aside class="notes" role="note">\n{_list(lines)}</aside>\n'
        case Facts(pairs):
            known = [(name, text) for name, text in pairs if text]
            items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in known)
            return f"<dl>\n{items}</dl>\n"
        case Cards(figures):
            return f'<div class="cards">\n{"".join(map(_card, figures))}</div>\n'
        case Folded(summary, blocks):
            inner = "".join(map(_block, blocks))
            return f"<details>\n<summary>{escape(summary)}</summary>\n{inner}</details>\n"
        case Table():
            return _table(block)
        case _:
            return _figure(block)


def _list(lines: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in lines) + "</ul>\n"


def _card(figure: tuple[str, str, str]) -> str:
    label, text, remark = map(escape, figure)
    small = f"<small>{remark}</small>" if remark else ""
    return f'<div class="card"><span>{label}</span><strong>{text}</strong>{small}</div>\n'


def _table(table: Table) -> str:
    numeric = [any(isinstance(line[column], Number) for line in table.lines) for column in range(len(table.headings))]
    headings = "".join(
        f'<th scope="col"{_NUMBER if is_number else ""}><button type="button">{escape(heading)}</button></th>'
        for heading, is_number in zip(table.headings, numeric, strict=True)
    )
    body = "".join(
        f"<tr{' class=marked' if number in table.marked else ''}>"
        f"{''.join(_cell(cell, is_number=numeric[column]) for column, cell in enumerate(line))}</tr>\n"
        for number, line in enumerate(table.lines)
    )
    # Reached by the keyboard, so that a table wider than the screen can be moved.
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table">\n<table>\n'
        f"<thead><tr>{headings}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _cell(cell: Cell, *, is_number: bool) -> str:
    if isinstance(cell, Number):
        return f'<td{_NUMBER} data-value="{cell.value!r}">{escape(cell.text)}</td>'
    length = "short" if len(cell) <= _SHORT else "long" if len(cell) >= _LONG else "text"
    name = _NUMBER if is_number else f' class="{length}"'
    return f"<td{name}>{escape(cell)}</td>"


def _figure(plot: Plot) -> str:
    drawn = "".join(f'<div class="{name}">{svg(plot, width)}</div>\n' for name, width in _WIDTHS.items())
    caption = escape(plot.caption)
    return f'<figure role="img" aria-label="{caption}">\n<figcaption>{caption}</figcaption>\n{drawn}</figure>\n'
