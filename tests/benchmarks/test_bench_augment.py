"""The augmentation benchmark runs every contender on the same job and reports what it measured."""

import json
import sys

import pytest
import torch

from benchmarks.bench_augment import CONTENDERS, BenchAugment, bench_augment
from benchmarks.cli import main


@pytest.mark.usefixtures("in_process")
def test_a_row_per_contender_with_all_rounds(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["--policy", "three", "--resolution", "16", "--batch-size", "6", "--threads", "1", "--json", str(out)]
    options += ["--rounds", "3", "--batches", "2", "--contenders", "torchvision-uint8", "torchvision"]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "augment", *options])
    assert main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["contender"] for row in rows] == ["torchvision-uint8", "torchvision"]
    for row in rows:
        assert len(row["rounds"]) == 3
        assert row["benchmark"] == "augment"
        assert row["milliseconds_per_batch"] == sorted(row["rounds"])[1]
        assert row["milliseconds_per_batch_interval"] == [min(row["rounds"]), max(row["rounds"])]
        assert (row["policy"], row["resolution"], row["batch_size"]) == ("three", 16, 6)
        assert row["cpu_seconds_per_image"] >= 0
        assert row["machine"]["cpu"]
    assert rows[0]["ratio_to_first"] == 1
    assert "ms/batch" in capsys.readouterr().out


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "fastvit")) for name in sorted(CONTENDERS)]
)  # fastvit compiles
def test_contenders_hand_over_normalised_batches(name):
    if name == "kornia":
        pytest.importorskip("kornia")
    config = BenchAugment(policy="trivial", resolution=32, batch_size=14, threads=1, batches=2)
    batches = list(CONTENDERS[name](config.job)(2))
    assert [batch.shape for batch in batches] == [(14, 3, 32, 32)] * 2
    for batch in batches:
        assert batch.dtype == torch.float32
        assert 0.5 < batch.std() < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": ("nope",)}, "unknown contender 'nope'; choose from: fastvit, kornia"),
        ({"contenders": ()}, "must name at least one of: fastvit, kornia"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchAugment(**changes)


@pytest.mark.usefixtures("in_process")
def test_a_contender_that_cannot_says_so():
    config = BenchAugment(policy="three", contenders=("kornia",), rounds=1, resolution=8)
    with pytest.raises((ValueError, ImportError), match=r"^kornia has no 3-Augment|pip install kornia"):
        bench_augment(config)
