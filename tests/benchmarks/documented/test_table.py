"""A table is made of the rows that count, line by line."""

from benchmarks.documented.table import (
    NOT_MEASURED,
    Table,
    by,
    calculated,
    distinct,
    figure,
    having,
    number,
    percent,
    rate,
    rendered,
    text,
)

ROWS = [
    {"file": "a.jsonl", "commit": "1" * 40, "loader": "native", "threads": 1, "images_per_second": 2000.4},
    {"file": "a.jsonl", "commit": "1" * 40, "loader": "native", "threads": 2, "images_per_second": 3990.0},
    {"file": "a.jsonl", "commit": "1" * 40, "loader": "torch", "threads": 1, "images_per_second": 500.0},
    {"file": "b.jsonl", "source": "a page", "loader": "other", "threads": 1, "images_per_second": 1.0},
]


def table(**options):
    return Table(**({"files": ("*",), "where": lambda row: True} | options))


def lines(table, rows):
    """The cells of each line."""
    return [line[2:-2].split(" | ") for line in rendered(table, rows).splitlines() if line.startswith("|")]


def test_each_row_is_a_line() -> None:
    columns = {"loader": text("loader"), "images/s": number("images_per_second")}
    found = lines(table(columns=columns, where=having(file="a.jsonl")), ROWS)
    assert found == [
        ["loader", "images/s"],
        ["---", "---"],
        ["native", "2,000"],
        ["native", "3,990"],
        ["torch", "500"],
    ]


def test_rows_that_are_alike_make_one_line() -> None:
    columns = {"loader": text("loader")} | {f"{n} threads": number("images_per_second", threads=n) for n in (1, 2)}
    found = lines(table(columns=columns, line=by("loader"), where=having(file="a.jsonl")), ROWS)
    assert found[2:] == [["native", "2,000", "3,990"], ["torch", "500", ""]]


def test_rows_without_a_key_are_for_columns_alone() -> None:
    def columns(rows):
        ceiling = next(row["value"] for row in rows if "value" in row)
        return {"share": calculated(lambda line: figure(line, "images_per_second") / ceiling, 2)}

    made = table(columns=columns, line=lambda row: row.get("loader"))
    assert lines(made, [*ROWS[2:3], {"file": "a.jsonl", "value": 1000}])[2:] == [["0.50"]]


def test_lines_in_order() -> None:
    made = table(columns={"loader": text("loader")}, order=lambda line: figure(line, "images_per_second"))
    assert lines(made, ROWS)[2:] == [["other"], ["torch"], ["native"], ["native"]]


def test_empty_columns_are_left_out() -> None:
    assert lines(table(columns={"loader": text("loader"), "GiB": number("memory")}), ROWS)[0] == ["loader"]


def test_no_rows() -> None:
    assert rendered(table(columns={}, where=having(loader="none")), ROWS) == NOT_MEASURED


def test_it_says_where_rows_are_from() -> None:
    last = rendered(table(columns={"loader": text("loader")}), ROWS).splitlines()[-1]
    assert last == ("Rows: `benchmarks/results/a.jsonl` (commit 1111111), `benchmarks/results/b.jsonl`.")


def test_a_rate_and_its_interval() -> None:
    cell = rate()
    assert (
        cell([{"images_per_second": 10, "images_per_second_interval": [9, 11], "rounds": [1, 10, 20]}])
        == "10 (9\u201311)"
    )
    assert cell([{"images_per_second": 1234.6, "rounds": [1000, 1234.6, 2000]}]) == "1,235 (1,000\u20132,000)"
    assert cell([{"images_per_second": 10, "lowest_and_highest_round": [8, 12]}]) == "10 (8\u201312)"
    assert cell([{"images_per_second": 10}]) == "10"
    assert cell([{}]) == ""


def test_nested_fields_and_matches() -> None:
    line = [{"limits": {"disk": None}}, {"limits": {"disk": 0.25}, "kind": 1}, {"limits": {"disk": 0.5}, "kind": 2}]
    assert percent("limits__disk", 0)(line) == "25 %"
    assert percent("limits__disk", 0, kind=2)(line) == "50 %"
    assert percent("limits__cpu")(line) == ""
    assert distinct(line, "kind") == [1, 2]
