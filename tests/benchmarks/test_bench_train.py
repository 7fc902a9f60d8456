"""The training benchmark runs every contender on the same steps and reports what it measured."""

import json
import sys

import pytest

from benchmarks.bench_train import CONTENDERS, BenchTrain, model_flops_per_image
from benchmarks.cli import main
from fastvit_train.models import MODELS
from runs import tiny_cifar_vit


@pytest.fixture
def small(make_set, monkeypatch):
    """Steps of 12 images of a tiny ViT."""
    monkeypatch.setitem(MODELS, "vit_small_cifar", tiny_cifar_vit)
    return {"data": make_set("train.beton", 60, num_classes=10).path, "batch_size": 12, "threads": 1, "device": "cpu"}


@pytest.mark.usefixtures("in_process")
def test_a_row_per_contender_with_all_rounds(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["--data", str(small["data"]), "--batch-size", "12", "--threads", "1", "--device", "cpu"]
    options += ["--rounds", "3", "--steps", "2", "--at", "0", "--json", str(out)]
    options += ["--contenders", "train", "loader,matmuls"]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "train", *options])
    assert main() == 0
    train, loader, matmuls = (json.loads(line) for line in out.read_text().splitlines())
    assert [row["contender"] for row in (train, loader, matmuls)] == ["train", "loader", "matmuls"]
    for row in (train, loader, matmuls):
        assert len(row["rounds"]) == 3
        assert row["images_per_second"] == sorted(row["rounds"])[1]
        assert (row["preset"], row["resolution"], row["patch_drop"]) == ("cifar10-vit-small-fast", 24, 0.5)
        assert row["machine"]["cpu"]
    assert train["ratio_to_first"] == 1
    shares = [mine / ceiling for mine, ceiling in zip(train["rounds"], matmuls["rounds"], strict=True)]
    assert train["ratio_to_matmuls"] == sorted(shares)[1]
    assert train["model_flops_per_second"] == train["flops_per_image"] * train["images_per_second"]
    assert loader["ratio_to_matmuls"] is None
    assert "share of matmuls' rate" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # as timm's does by default
@pytest.mark.parametrize("name", sorted(CONTENDERS))
def test_contenders_do_the_steps_that_they_are_asked_for(name, small, tmp_path):
    work = CONTENDERS[name](BenchTrain(**small, steps=2), tmp_path)
    for _ in range(2):
        work.start()
        assert work.steps(2) == 24


@pytest.mark.parametrize("has_matmul", [True, False])
def test_timms_bf16_is_left_out_where_it_takes_minutes(monkeypatch, has_matmul):
    monkeypatch.setattr("benchmarks.bench_train.has_bf16_matmul", lambda device: has_matmul)
    assert ("timm-amp-bf16" in BenchTrain().contenders) == has_matmul


def test_flops_are_those_of_the_phase():
    """A multiply-add is two; the backward pass takes twice the forward one, less the gradient of the pixels."""
    last = model_flops_per_image(BenchTrain(at=1))
    tokens, dim = 64, 384
    per_block = 2 * tokens * 12 * dim**2 + 4 * tokens**2 * dim
    patches, head = 2 * tokens * 48 * dim, 2 * dim
    assert last == pytest.approx(3 * (6 * per_block + head) + 2 * patches, rel=1e-6)
    assert model_flops_per_image(BenchTrain(at=0)) < 0.3 * last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": ("nope",)}, "unknown contender 'nope'; choose from: loader, matmuls, step, timm"),
        ({"preset": "nope"}, "unknown preset 'nope'"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"at": 1.5}, r"at must lie in \[0, 1\], got 1.5"),
        ({"batch_size": 5, "preset": "imagenet-resnet50-rsb-a2"}, "accumulate must divide batch_size 5"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchTrain(**changes)
