"""docs/presets.md lists the presets as their docstrings have it."""

from pathlib import Path

from fastvit_train.presets import PRESETS

PAGE = Path(__file__).parents[2] / "docs" / "presets.md"


def test_the_table_is_that_of_the_docstrings() -> None:
    rows = []
    for name, recipe in PRESETS.items():
        summary = recipe.__doc__.splitlines()[0]
        was_run = "no" if "Expected: not yet run" in recipe.__doc__ else "yes"
        rows.append(f"| [`{name}`](#{recipe.__module__}.{recipe.__name__}) | {summary} | {was_run} |\n")
    table = "".join(rows)
    assert table in PAGE.read_text(), f"the rows should be\n{table}"
