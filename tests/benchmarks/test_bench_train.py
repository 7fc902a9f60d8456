"""The training benchmark runs every contender on the same steps and reports what it measured."""

import json
import sys

import pytest

from benchmarks.bench_train import CONTENDERS, BenchTrain, _measure, model_flops_per_image
from benchmarks.cli import main
from benchmarks.harness import Turn
from fastvit_train.models import MODELS
from loaders.cpus import usable_cpus
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
        assert row["benchmark"] == "train"
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
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "timm-compiled")) for name in sorted(CONTENDERS)]
)
def test_contenders_do_the_steps_that_they_are_asked_for(name, small, tmp_path):
    work = CONTENDERS[name](BenchTrain(**small, steps=2), tmp_path)
    for _ in range(2):
        work.start()
        assert work.steps(2) == 24


@pytest.mark.parametrize("has_matmul", [True, False])
def test_timms_bf16_is_left_out_where_it_takes_minutes(monkeypatch, has_matmul):
    monkeypatch.setattr("benchmarks.bench_train.has_bf16_matmul", lambda device: has_matmul)
    assert ("timm-amp-bf16" in BenchTrain().contenders) == has_matmul


@pytest.mark.parametrize("has_card", [True, False])
def test_a_card_has_timms_fastest_as_well(monkeypatch, has_card):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_card)
    monkeypatch.setattr("benchmarks.bench_train.has_bf16_matmul", lambda device: True)
    assert ("timm-compiled" in BenchTrain().contenders) == has_card


def test_as_many_threads_as_cpus(monkeypatch):
    assert BenchTrain().threads == usable_cpus()


class _Steps:
    """A contender whose steps take 0.03 s each."""

    def __init__(self):
        self.numbers = []

    def start(self):
        return 1

    def steps(self, number):
        self.numbers.append(number)
        return number

    def run(self, work):
        work(self)
        return Turn(num_images=1, seconds=0.03 * sum(self.numbers[-1:]), cpu_seconds=0, peak_rss_bytes=0)


@pytest.mark.parametrize(("given", "taken"), [(None, 34), (7, 7)])
def test_rounds_last_a_second_where_nobody_says_how_many_steps(given, taken):
    contender = _Steps()
    turns = _measure(BenchTrain(steps=given, rounds=2), {"train": contender})
    assert contender.numbers[-2:] == [taken, taken]
    assert len(turns["train"]) == 2


def test_contenders_give_their_memory_back_after_each_turn(monkeypatch):
    calls = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append("memory"))
    _measure(BenchTrain(steps=2, rounds=3), {"train": _Steps()})
    assert calls == ["memory"] * 4  # of the warm-up too


def test_options_of_the_command_line_reach_the_run(small):
    training = BenchTrain(**small, accumulate=3, compile="off").training
    assert (training.accumulate, training.compile, training.batch_size) == (3, "off", 12)


def test_steps_go_on_after_the_end_of_an_epoch(small, tmp_path):
    work = CONTENDERS["train"](BenchTrain(**small), tmp_path)  # epochs of five batches
    work.start()
    assert work.steps(11) == 11 * 12


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_timm_computes_a_batch_in_as_many_parts(small, tmp_path, monkeypatch):
    work = CONTENDERS["timm"](BenchTrain(**small, accumulate=3), tmp_path)
    sizes = []
    work._model.register_forward_pre_hook(lambda model, inputs: sizes.append(len(inputs[0])))
    work.start()
    assert work.steps(2) == 24
    assert sizes == [4] * 6


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
