"""Documents and rows of a checkout agree, or it is said where they do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.documented.checkout import bad_documents, bad_rows, write_tables
from benchmarks.documented.table import Table, having, number, text
from loaders.errors import FastvitError

ROOT = Path(__file__).parents[3]
TABLES = {
    "speeds": Table(
        files=("z*.jsonl",),
        where=having(benchmark="run"),
        columns={"preset": text("preset"), "images/s": number("images_per_second")},
    )
}


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a document, and a file of two rows."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    rows = [
        {"benchmark": "run", "source": "a page", "preset": name, "images_per_second": speed}
        for name, speed in (("a", 1234), ("b", 56))
    ]
    (results / "zen.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- rows: speeds -->\n<!-- end -->\n")
    (tmp_path / "docs" / "page.md").write_text("It makes 1,234 images/s.\n")
    return tmp_path


def test_tables_are_written_once(checkout) -> None:
    assert list(bad_documents(checkout, TABLES)) == [
        "README.md: its tables are not what the rows say: python -m benchmarks.documented --write"
    ]
    write_tables(checkout, TABLES)
    assert "| a | 1,234 |\n| b | 56 |\n" in (checkout / "README.md").read_text()
    assert list(bad_documents(checkout, TABLES)) == []


def test_a_table_that_was_changed_by_hand(checkout) -> None:
    write_tables(checkout, TABLES)
    page = checkout / "README.md"
    page.write_text(page.read_text().replace("1,234", "1,235"))
    assert len(list(bad_documents(checkout, TABLES))) == 1


def test_new_rows_change_the_table(checkout) -> None:
    write_tables(checkout, TABLES)
    with (checkout / "benchmarks" / "results" / "zen.jsonl").open("a") as file:
        file.write('{"benchmark": "run", "source": "a page", "preset": "c", "images_per_second": 7}\n')
    assert len(list(bad_documents(checkout, TABLES))) == 1
    write_tables(checkout, TABLES)
    assert "| c | 7 |" in (checkout / "README.md").read_text()


def test_a_figure_without_a_row(checkout) -> None:
    write_tables(checkout, TABLES)
    (checkout / "docs" / "page.md").write_text("Text.\nIt makes 1,235 images/s.\n")
    assert list(bad_documents(checkout, TABLES)) == [
        "docs/page.md:2: no row of benchmarks/results has the figure 1,235 images/s"
    ]


def test_a_table_that_no_document_shows(checkout) -> None:
    (checkout / "README.md").write_text("Text.\n")
    assert list(bad_documents(checkout, TABLES)) == ["no document shows the table speeds"]


def test_an_unknown_table(checkout) -> None:
    (checkout / "README.md").write_text("<!-- rows: speed -->\n<!-- end -->\n")
    with pytest.raises(FastvitError, match=r"README.md: there is no table 'speed'; .* has speeds"):
        write_tables(checkout, TABLES)


def test_bad_rows_are_named(checkout) -> None:
    assert list(bad_rows(checkout)) == []
    (checkout / "benchmarks" / "results" / "leaderboard").mkdir()
    (checkout / "benchmarks" / "results" / "leaderboard" / "mine.jsonl").write_text('{"benchmark": "guess"}\n')
    found = list(bad_rows(checkout))
    assert found[0].startswith("benchmarks/results/leaderboard/mine.jsonl, row 1: benchmark 'guess' is none of")


def test_this_checkout_agrees_with_its_rows_without_any_package() -> None:
    # -S: nothing that was installed can be imported.
    command = [sys.executable, "-S", "-m", "benchmarks.documented"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
