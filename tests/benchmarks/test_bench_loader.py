"""The loader benchmark runs on any file and reports what it measured."""

import json
import sys
from functools import partial

import pytest

from benchmarks.bench_loader import BenchLoader, bench_loader
from benchmarks.cli import main
from benchmarks.harness import Contender

pytestmark = pytest.mark.timeout(180)


def test_a_row_per_loader_with_all_rounds(raw_set, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    arguments = ["loader", "--data", str(raw_set.path), "--case", "whole", "--resolution", "32", "--batch-size", "16"]
    arguments += ["--loaders", "synthetic,resident", "--rounds", "3", "--threads", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", *arguments])
    assert main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["loader"] for row in rows] == ["synthetic", "resident"]
    for row in rows:
        assert len(row["rounds"]) == 3
        assert row["images_per_second"] == sorted(row["rounds"])[1]
        assert row["peak_rss_bytes"] > 50 * 2**20
        assert row["first_batch_seconds"] > 0
        assert row["cpu_seconds_per_image"] >= 0
        assert (row["case"], row["resolution"], row["threads"]) == ("whole", 32, 1)
        assert row["versions"]["torch"]
    assert "resident" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"loaders": ("nope",)}, "unknown loader 'nope'; choose from: ffcv"), ({"rounds": 0}, "must be positive")],
)
def test_bad_options_are_refused(raw_set, changes, message):
    with pytest.raises(ValueError, match=message):
        BenchLoader(data=raw_set.path, **changes)


def test_a_failing_loader_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match=r"synthetic failed: (?s:.*)nothing\.beton: no such file"):
        bench_loader(BenchLoader(data=tmp_path / "nothing.beton", loaders=("synthetic",), rounds=1))


def _prepare_exit():
    return partial(sys.exit)


def test_a_process_that_dies_is_noticed():
    with (
        Contender("suicidal", _prepare_exit) as contender,
        pytest.raises(RuntimeError, match="the process of suicidal died"),
    ):
        contender.run(3)
