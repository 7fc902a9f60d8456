"""Figures that stand outside of the tables are those of rows."""

import pytest

from benchmarks.documented.figures import known_figures, numbers, unfounded

KNOWN = known_figures(
    [
        {"images_per_second": 1234.4, "rounds": [1200.0, 1250.0], "top1": 0.9190, "dirty": True},
        {"cpu_seconds_per_image": 0.000457, "host_milliseconds": 1.26, "needs": {"network_bytes_per_second": 4.21e9}},
        {"what": "matmul", "unit": "TFLOP/s", "value": 786.1},
    ]
)


def problems(text):
    return list(unfounded(text, KNOWN))


@pytest.mark.parametrize(
    "text",
    [
        "It loads 1,234 images/s.",
        "1,234.4 images/s",
        "457 µs of an image, 0.457 ms",
        "1.3 ms, or 1,260 µs",
        "786 TFLOP/s and 4.2 GB/s",
        "91.90 % and 91.9 %",
        "At 1,000 images/s, 95 % of 2,000 images/s",  # examples
        "ResNet-50 at 224 px in 12 minutes",
    ],
)
def test_figures_of_rows_and_examples(text) -> None:
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("It loads 1,235 images/s.", "1,235 images/s"),
        ("1,234.5 images/s", "1,234.5 images/s"),
        ("458 µs", "458 µs"),
        ("91.91 %", "91.91 %"),
        ("from 1,234 to 1,300 images/s", "1,300 images/s"),
        ("between 1,211 and 1,234 images/s", "1,211 images/s"),
        ("1,212\u20131,234 images/s", "1,212 images/s"),
        ("787 TFLOP/s", "787 TFLOP/s"),
        ("4.3 GB/s", "4.3 GB/s"),
    ],
)
def test_figures_without_a_row(text, figure) -> None:
    assert problems(f"Text.\n{text}\n") == [(2, f"no row of benchmarks/results has the figure {figure}")]


@pytest.mark.parametrize(
    ("heading", "cell"),
    [
        ("what", "1,234 images/s"),
        ("images/s", "1,234"),
        ("images/s", "1,234 (1,200\u20131,250)"),
        ("training", "5.5 min"),
        ("top-1", "91.90 %"),
        ("memory", "1.5 GiB"),
        ("ms of a step", "67.2"),
    ],
)
def test_tables_of_figures_are_made_from_rows(heading, cell) -> None:
    ((line, problem),) = problems(f"| name | {heading} |\n| --- | --- |\n| a | {cell} |\n")
    assert line == 3
    assert problem.startswith(f"'{cell}' is a figure in a table that was not made from rows")


def test_other_tables() -> None:
    assert problems("| preset | epochs |\n| --- | --- |\n| `a` | 130 |\n| `b` | of 1,234 images/s |\n") == []
    assert problems("| a | b |\n| --- | --- |\n| x | more than 1,236 images/s |\n")[0][0] == 3


def test_numbers_of_a_row() -> None:
    row = {"a": 1, "b": {"c": [2.5, None, {"d": 3}]}, "e": "4", "f": True}
    assert list(numbers(row)) == [("a", 1), ("b__c", 2.5), ("b__c__d", 3)]
