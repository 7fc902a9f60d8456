"""A report as Markdown: its text and its tables, without the figures."""

from collections.abc import Sequence

from fastvit_train.page.content import Block, Bullets, Cards, Cell, Facts, Folded, Notes, Number, Page, Paragraph, Table

__all__ = ["to_markdown"]


def to_markdown(page: Page) -> str:
    """The page as text."""
    parts = [f"# {_plain(page.title)}\n\n{_plain(page.lead)}\n"]
    for section in page.sections:
        parts += [f"\n## {_plain(section.title)}\n", *map(_block, section.blocks)]
    return "".join(parts)


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"\n{_plain(text)}\n"
        case Bullets(lines) | Notes(lines):
            return _bullets(lines)
        case Facts(pairs):
            return _bullets([f"{name}: {text}" for name, text in pairs if text])
        case Cards(figures):
            return _bullets([f"{label}: {text}{remark and f' ({remark})'}" for label, text, remark in figures])
        case Folded(summary, blocks):
            return f"\n**{_plain(summary)}**\n{''.join(map(_block, blocks))}"
        case Table():
            return _table(block)
        case _:
            return ""


def _bullets(lines: Sequence[str]) -> str:
    return "\n" + "".join(f"- {_plain(line)}\n" for line in lines)


def _table(table: Table) -> str:
    columns = list(zip(*table.lines, strict=True)) or [()] * len(table.headings)
    rules = ["---:" if any(isinstance(cell, Number) for cell in cells) else "---" for cells in columns]
    lines = [_line([_text(cell) for cell in line], number in table.marked) for number, line in enumerate(table.lines)]
    return f"\n{_line(table.headings, False)}| {' | '.join(rules)} |\n{''.join(lines)}"


def _line(cells: Sequence[str], is_marked: bool) -> str:
    texts = [_plain(cell).replace("|", "/") for cell in cells]
    return f"| {' | '.join(f'**{text}**' if is_marked and text else text for text in texts)} |\n"


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Number) else cell


def _plain(text: str) -> str:
    return " ".join(text.split())
