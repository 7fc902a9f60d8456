"""The loader benchmark runs on any file and reports what it measured."""

import json
import sys
from importlib.util import find_spec

import pytest

from benchmarks.bench_loader import MODULES, BenchLoader, bench_loader
from benchmarks.cli import main
from loaders.cpus import usable_cpus


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command; gives its exit code, its rows, and what it wrote to stdout and stderr."""

    def run(path, *arguments):
        out = tmp_path / "rows.jsonl"
        common = ["--data", str(path), "--resolution", "32", "--batch-size", "16", "--threads", "1", "--json", str(out)]
        monkeypatch.setattr(sys, "argv", ["fastvit-bench", "loader", *common, *arguments])
        code = main()
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return code, rows, *capsys.readouterr()

    return run


@pytest.mark.usefixtures("in_process")
def test_a_row_per_loader_with_all_rounds(raw_set, run):
    options = ["--case", "whole", "--rounds", "3", "--round-seconds", "0.05"]
    code, rows, table, _ = run(raw_set.path, "--loaders", "synthetic,resident", *options)
    assert code == 0
    assert [row["loader"] for row in rows] == ["synthetic", "resident"]
    for row in rows:
        assert len(row["rounds"]) == 3
        assert row["images_per_second"] == sorted(row["rounds"])[1]
        assert row["epochs_per_round"] > 1
        assert row["peak_rss_bytes"] > 50 * 2**20
        assert row["first_batch_seconds"] > 0
        assert row["cpu_seconds_per_image"] >= 0
        assert (row["case"], row["resolution"], row["threads"]) == ("whole", 32, 1)
        assert row["ratio_to_limit"] is None
        assert {"torch", "libjpeg-turbo"} <= set(row["versions"])
        assert row["machine"]["cores"] == usable_cpus()
        assert row["machine"]["cpu"]
        assert row["machine"]["memory_bytes"] > 2**30
    assert [row["ratio_to_first"] for row in rows] == [1, sorted(b / a for a, b in zip(*_rounds(rows), strict=True))[1]]
    assert "resident" in table
    assert "ratio to limit" not in table


def _rounds(rows):
    return [row["rounds"] for row in rows]


@pytest.mark.usefixtures("in_process")
def test_the_ratio_to_the_limit(photo_set, run):
    options = ["--case", "val", "--rounds", "2", "--round-seconds", "1e-9"]
    code, rows, table, _ = run(photo_set.path, "--loaders", "torch", "limit", *options)
    assert code == 0
    assert [row["epochs_per_round"] for row in rows] == [1, 1]
    ratios = [mine / limit for mine, limit in zip(*_rounds(rows), strict=True)]
    assert [row["ratio_to_limit"] for row in rows] == [pytest.approx(sum(ratios) / 2), 1]
    assert "ratio to limit" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loaders": ("nope",)}, "unknown loader 'nope'; choose from: dali, ffcv"),
        ({"loaders": (",",)}, "must name at least one of: dali, ffcv"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
    ],
)
def test_bad_options_are_refused(raw_set, changes, message):
    with pytest.raises(ValueError, match=message):
        BenchLoader(data=raw_set.path, **changes)


def test_what_contenders_import_is_there():
    assert all(find_spec(module) for module in MODULES.values())


@pytest.mark.usefixtures("in_process")
def test_a_failing_loader_ends_in_a_message(tmp_path):
    with pytest.raises((ValueError, OSError), match=r"nothing\.beton: no such file"):
        bench_loader(BenchLoader(data=tmp_path / "nothing.beton", loaders=("synthetic",), rounds=1))


def test_a_file_that_a_contender_cannot_read_ends_in_a_message(raw_set, run):
    code, rows, _, message = run(raw_set.path, "--loaders", "limit")
    assert (code, rows) == (1, [])
    assert message.endswith(
        f"\nfastvit-bench: limit failed: limit decodes JPEGs, but {raw_set.path} holds raw images: "
        "leave it out of --loaders\n"
    )


def test_results_that_cannot_be_written_are_refused_before_measuring(raw_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bench_loader(BenchLoader(data=raw_set.path, loaders=("native",), json=tmp_path / "nowhere" / "rows.jsonl"))
