"""Files of rows are read with their benchmark, and a line that is none is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.row_files import append_rows, read_rows, replace_rows

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"benchmark": "imread", "rounds": [1.5, 2.0]}])
    append_rows(path, [{"benchmark": "plan", "hours": None}])
    rows = [{"benchmark": "imread", "rounds": [1.5, 2.0]}, {"benchmark": "plan", "hours": None}]
    assert read_rows(path) == rows
    first_line = len(path.read_bytes().splitlines(keepends=True)[0])
    assert read_rows(path, skip_bytes=first_line) == rows[1:]


def test_rows_of_old_get_the_benchmark_that_made_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"stage": "train"}, {"loader": "native"}])
    assert read_rows(path) == [{"benchmark": "accept", "stage": "train"}, {"benchmark": "loader", "loader": "native"}]


def test_rows_replace_old_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    first, second, third = ({"benchmark": "imread", "decoder": name} for name in ("first", "second", "third"))
    replace_rows(path, [first, second], is_old=lambda _: True)
    replace_rows(path, [third], is_old=lambda row: row == first)
    assert read_rows(path) == [second, third]


def test_a_file_that_holds_something_else_stays_as_it_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("something else\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:1 is no row"):
        replace_rows(path, [], is_old=lambda _: True)
    assert path.read_text() == "something else\n"


def test_every_committed_file_can_be_read():
    for path in RESULTS.glob("*.jsonl"):
        assert all(row["benchmark"] for row in read_rows(path))


@pytest.mark.parametrize(
    ("line", "problem"), [("{oops}", "Expecting property name"), ("[1]", "but a list"), ("\xff", "Expecting value")]
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, problem):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"loader": "native"}) + f"\n\n{line}\n", encoding="latin-1")
    for skip_bytes in (0, 21):
        with pytest.raises(ValueError, match=rf"rows\.jsonl:3 is no row, which is a JSON object.*{problem}|codec"):
            read_rows(path, skip_bytes=skip_bytes)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"^cannot read rows from .*nothing\.jsonl: No such file"):
        read_rows(tmp_path / "nothing.jsonl")


def test_reading_rows_needs_no_package():
    code = (
        "import sys, benchmarks.row_files, benchmarks.intervals; print({'torch', 'numpy', 'psutil'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
