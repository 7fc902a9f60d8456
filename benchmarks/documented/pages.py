"""The documents: where their tables stand, and what of them was written by hand."""

import re
from collections.abc import Callable

from loaders.errors import FastvitError

__all__ = ["filled", "names", "own_text"]

_TABLE = re.compile(
    r"(?P<start><!-- rows: (?P<name>[\w-]+) -->\n)(?P<table>(?:(?!<!-- ).)*)(?P<end><!-- end -->)", re.DOTALL
)
_CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def names(page: str) -> list[str]:
    """The names of the tables of a page."""
    return [found["name"] for found in _TABLE.finditer(page)]


def filled(page: str, table: Callable[[str], str]) -> str:
    """The page with its tables as they should be, each by its name.

    Raises:
        FastvitError: A table has no end.
    """
    if page.count("<!-- rows: ") != len(names(page)):
        raise FastvitError("a line <!-- rows: NAME --> needs a line <!-- end --> before the next one")
    return _TABLE.sub(lambda found: f"{found['start']}{table(found['name'])}{found['end']}", page)


def own_text(page: str) -> str:
    """The page without its tables and without code; all that is left stands in the line where it stood."""
    return _CODE.sub(_blank, _TABLE.sub(_blank, page))


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n") or "…"
