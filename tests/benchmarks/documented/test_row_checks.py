"""A row is refused if nobody could repeat it or it cannot be true."""

import pytest

from benchmarks.documented.row_checks import row_problems

ROW = {
    "benchmark": "loader",
    "loader": "native",
    "case": "train",
    "resolution": 224,
    "threads": 2,
    "data": "photos.beton",
    "images_per_second": 100.0,
    "images_per_second_interval": [99.0, 101.0],
    "rounds": [99.0, 100.0, 101.0],
    "command": "fastvit-bench loader",
    "commit": "0123456789" * 4,
    "date": "2026-11-27T15:50:16+00:00",
    "machine": {"cpu": "AMD EPYC", "cores": 2},
}


def test_a_good_row() -> None:
    assert list(row_problems(ROW)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"benchmark": "guess"}, "benchmark 'guess' is none of loader, scaling"),
        ({"command": ""}, "it has no command"),
        ({"commit": None}, "commit must be that of a checkout, in 40 digits, got None"),
        ({"commit": "9769902"}, "commit must be that of a checkout, in 40 digits, got '9769902'"),
        ({"date": "yesterday"}, "date must be one with a time zone, got 'yesterday'"),
        ({"date": "2026-11-27T15:50:16"}, "date must be one with a time zone"),
        ({"machine": {"cores": 2}}, "it has no machine with a cpu"),
        ({"images_per_second": 0.0, "images_per_second_interval": None}, "images_per_second must be positive, got 0.0"),
        ({"rounds": [100.0, float("nan")]}, "rounds must be positive, got nan"),
        (
            {"images_per_second_interval": [101.0, 102.0]},
            "images_per_second_interval [101.0, 102.0] does not hold 100.0",
        ),
        ({"data": "/home/alice/photos.beton"}, "it has the path of a home folder (/home/)"),
        ({"command": "fastvit-bench loader --data /Users/bob/x"}, "it has the path of a home folder (/Users/)"),
    ],
)
def test_what_is_wrong(change, problem) -> None:
    (found,) = row_problems(ROW | change)
    assert found.startswith(problem)


def test_what_tables_need() -> None:
    assert list(row_problems({name: ROW[name] for name in ROW if name != "data"})) == ["it has no data"]


def test_documented_rows_say_their_source_instead() -> None:
    assert list(row_problems({"benchmark": "run", "source": "a page", "top1": 0.9, "command": None})) == []
    (found,) = row_problems({"benchmark": "loader", "source": "a page", "images_per_second": -1})
    assert found == "images_per_second must be positive, got -1"
