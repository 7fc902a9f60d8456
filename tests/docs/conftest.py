"""The documents, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Page:
    """One document, taken apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        blocks = [(found[2], found[3]) for found in _FENCE.finditer(self.text)]
        self.python = [block for language, block in blocks if language == "python"]
        lines = "".join(block for language, block in blocks if not language).replace("\\\n", " ").splitlines()
        self.commands = [line.strip() for line in lines if line.strip()]
        """The lines of the blocks without a language: commands, and output or file names among them."""
        self.prose = _FENCE.sub("", self.text)
        self.inline_code = re.findall(r"`([^`\n]+)`", self.prose)


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Page:
    """Each document in turn."""
    return Page(request.param)
