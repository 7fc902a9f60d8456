"""Where tables stand in a document."""

import pytest

from benchmarks.documented.pages import filled, names, own_text
from loaders.errors import FastvitError

PAGE = """# Page
<!-- rows: first -->
| old | 1 images/s |
<!-- end -->
Text with `12 images/s` in code.
<!-- rows: second-one -->
<!-- end -->
```
13 images/s
```
14 images/s
"""


def test_names() -> None:
    assert names(PAGE) == ["first", "second-one"]


def test_tables_are_filled_and_the_rest_stays() -> None:
    made = filled(PAGE, lambda name: f"table {name}\n")
    assert made == PAGE.replace("| old | 1 images/s |\n", "table first\n").replace(
        "second-one -->\n", "second-one -->\ntable second-one\n"
    )
    assert filled(made, lambda name: f"table {name}\n") == made


@pytest.mark.parametrize("page", [PAGE.replace("<!-- end -->\n", "", 1), PAGE + "<!-- rows: third -->\n"])
def test_a_table_without_an_end(page) -> None:
    with pytest.raises(FastvitError, match="needs a line <!-- end --> before the next one"):
        filled(page, lambda name: "table\n")


def test_own_text_has_the_lines_where_they_were() -> None:
    text = own_text(PAGE)
    assert "images/s" in text.splitlines()[PAGE.splitlines().index("14 images/s")]
    assert text.count("images/s") == 1
    assert len(text.splitlines()) == len(PAGE.splitlines())
