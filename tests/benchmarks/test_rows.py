"""A table has its lines of text below it, each once; ratios and their intervals are taken within rounds."""

import pytest

from benchmarks.harness import Turn
from benchmarks.rows import costs, print_table, ratio_column, ratios

_WHERE = {"machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 2**30, "gpu": None}, "versions": {"torch": "3.0"}}


def _turns(*speeds):
    return [Turn(num_images=100, seconds=100 / speed, cpu_seconds=1, peak_rss_bytes=1) for speed in speeds]


def test_notes_and_warnings_stand_below_the_table(capsys):
    noisy = {**_WHERE, "noise": {"warnings": ["loud", "hot"]}}
    print_table("Speeds", {"loader": ["a", "b", "c"]}, [noisy, noisy, _WHERE], notes=["c [is] not there"])
    assert capsys.readouterr().out.splitlines()[-3:] == ["c [is] not there", "Warning: loud", "Warning: hot"]


def test_ratios_are_taken_within_rounds():
    row = ratios("ratio_to_first", _turns(10, 30, 20), _turns(5, 10, 10))
    assert row["ratio_to_first"] == pytest.approx(2)
    assert row["ratio_to_first_interval"] == pytest.approx((2, 3))
    assert ratio_column("ratio_to_first", [row, ratios("ratio_to_first", [], None)]) == ["2.00 (2.00-3.00)", ""]
    scaled = ratios("share", _turns(10, 30, 20), _turns(5, 10, 10), scale=0.5)
    assert scaled == {"share": pytest.approx(1), "share_interval": pytest.approx((1, 1.5))}


def test_a_speed_has_its_interval():
    row = costs(_turns(90, 100, 120))
    assert row["images_per_second"] == pytest.approx(100)
    assert row["images_per_second_interval"] == pytest.approx((90, 120))
