"""The training benchmark runs every contender on the same steps and reports what it measured."""

import json
import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch

from benchmarks.bench_train import CONTENDERS, BenchTrain, bench_train, model_flops_per_image
from benchmarks.cli import main
from benchmarks.harness import Turn
from benchmarks.train.work import measure
from fastvit_train.flops import forward_flops_per_image
from fastvit_train.models import MODELS, build_model
from loaders.cpus import usable_cpus
from runs import tiny_cifar_vit

BENCHED = "cifar10-vit-small-fast"


@pytest.fixture
def small(make_set, monkeypatch):
    """Steps of 12 images of a tiny ViT."""
    monkeypatch.setitem(MODELS, "vit_small_cifar", tiny_cifar_vit)
    monkeypatch.setattr("benchmarks.train.work._ROUND_SECONDS", 0.05)
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
        assert (row["arch"], row["backend"], row["device"]) == ("vit_small_cifar", "resident", "cpu")
        assert row["precision"] in ("bf16", "fp32")
        assert row["machine"]["cpu"]
    assert train["ratio_to_first"] == 1
    shares = [mine / ceiling for mine, ceiling in zip(train["rounds"], matmuls["rounds"], strict=True)]
    assert train["ratio_to_matmuls"] == sorted(shares)[1]
    assert train["model_flops_per_second"] == train["flops_per_image"] * train["images_per_second"]
    assert loader["ratio_to_matmuls"] is None
    assert "of matmuls" in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_a_verdict_comes_with_train_step_and_loader(small, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    rows = bench_train(
        BenchTrain(**small, contenders=("train", "step", "loader", "matmuls"), rounds=2, steps=1, json=out)
    )
    verdict = rows[-1]
    assert [json.loads(line)["contender"] for line in out.read_text().splitlines()][-2:] == ["matmuls", "verdict"]
    assert verdict["bottleneck"] in ("step", "loader")
    assert verdict["share_of_matmul_ceiling"] == rows[0]["ratio_to_matmuls"]
    assert verdict.items() >= {name: rows[0][name] for name in ("benchmark", "preset", "arch", "machine")}.items()
    said = capsys.readouterr().out
    assert f"bottleneck: the {verdict['bottleneck']}, alone" in said
    assert all(f"- {sentence}" in said.splitlines() for sentence in verdict["advice"])


@pytest.mark.parametrize(("device", "groups"), [("cpu", [["train", "matmuls"]]), ("cuda", [["train"], ["matmuls"]])])
def test_a_card_has_one_contender_at_a_time(small, monkeypatch, device, groups):
    seen = []

    @contextmanager
    def started(subjects):
        seen.append(list(subjects))
        yield {name: _Steps() for name in subjects}

    monkeypatch.setattr("benchmarks.rows.started", started)
    monkeypatch.setattr("benchmarks.rows.origin", lambda: {"date": f"minute {len(seen)}"})
    monkeypatch.setattr(BenchTrain, "torch_device", property(lambda config: torch.device(device)))
    rows = bench_train(BenchTrain(**small, contenders=("train", "matmuls"), precision="fp32", rounds=2, steps=3))
    assert seen == groups
    assert rows[0]["date"] == rows[1]["date"]
    assert rows[0]["ratio_to_matmuls"] == 1


@pytest.mark.usefixtures("in_process")
def test_what_was_measured_before_a_contender_failed_is_written(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(BenchTrain, "torch_device", property(lambda config: torch.device("cuda")))
    monkeypatch.setitem(CONTENDERS, "timm", "no contender at all")
    options = BenchTrain(**small, contenders=("matmuls", "timm"), precision="fp32", rounds=2, steps=1, json=out)
    with pytest.raises(TypeError):
        bench_train(options)
    assert [json.loads(line)["contender"] for line in out.read_text().splitlines()] == ["matmuls"]
    assert "matmuls" in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_a_sweep_has_a_row_per_setting_and_says_what_failed(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["--data", str(small["data"]), "--threads", "1", "--device", "cpu", "--rounds", "2", "--steps", "1"]
    options += ["--batch-size", "12", "--precision", "fp32", "--json", str(out)]
    options += ["--sweep", "precision=fp8", "channels-last", "batch-size=6"]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "train", *options])
    assert main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["benchmark"] for row in rows} == {"train-sweep"}
    assert [row["precision"] for row in rows[:2]] == ["fp32", "fp8"]
    assert (rows[1]["images_per_second"], rows[0]["problem"]) == (None, None)
    assert rows[1]["problem"].startswith("precision is fp8, but the device is cpu")
    assert [row["channels_last"] for row in rows[:3]] == [True, True, False]
    assert rows[3]["batch_size"] == 6
    assert sum(row["is_best"] for row in rows) == 1
    assert all(row["machine"]["cpu"] for row in rows)
    said = capsys.readouterr().out
    assert "best: --precision fp32" in said
    assert "not measured: --precision fp8" in said


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
    assert ("timm-amp-bf16" in BenchTrain(device="cpu").names) == has_matmul


@pytest.mark.parametrize("has_card", [True, False])
@pytest.mark.parametrize("has_compiler", [True, False])
def test_timms_fastest_takes_part_where_torch_can_compile(monkeypatch, has_card, has_compiler):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_card)
    monkeypatch.setattr("benchmarks.bench_train.has_bf16_matmul", lambda device: True)
    monkeypatch.setattr("benchmarks.bench_train.can_compile", lambda device: device.type == "cuda" or has_compiler)
    assert ("timm-compiled" in BenchTrain().names) == (has_card or has_compiler)
    assert ("timm-compiled" in BenchTrain(device="cpu").names) == has_compiler


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


@pytest.mark.parametrize(
    ("name", "given", "taken"), [("train", None, 34), ("train", 7, 7), ("loader", None, 34), ("loader", 7, 34)]
)
def test_rounds_last_a_second_where_nobody_says_how_many_steps(name, given, taken):
    contender = _Steps()
    turns = measure({name: contender}, rounds=2, steps=given)
    assert contender.numbers[-2:] == [taken, taken]
    assert len(turns[name]) == 2


def test_options_of_the_command_line_reach_the_run(small):
    training = BenchTrain(**small, accumulate=3, compile="off").training
    assert (training.accumulate, training.compile, training.batch_size) == (3, "off", 12)
    changes = {"backend": "native", "precision": "fp32", "arch": "timm/test_vit", "resolution": 48}
    training = BenchTrain(**small, preset=BENCHED, **changes).training
    assert (training.data.backend, training.precision, training.arch) == ("native", "fp32", "timm/test_vit")
    assert (training.data.resolution, training.phases) == (48, ())
    assert (training.data.num_workers, training.data.train, training.preset) == (1, small["data"], BENCHED)


def test_a_model_comes_with_its_own_preset():
    assert BenchTrain(arch="resnet50").training.preset == "imagenet-resnet50-ffcv"
    assert BenchTrain(arch="resnet50", preset=BENCHED).training.preset == BENCHED


def test_noise_has_no_threads_that_load(small):
    assert BenchTrain(**small, backend="synthetic").training.data.num_workers is None


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_and_weights_have_the_layout_that_is_asked_for(small, tmp_path, channels_last):
    work = CONTENDERS["step"](BenchTrain(**small, channels_last=channels_last), tmp_path)
    model, seen = work.run.model, []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    work.start()
    work.steps(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (model.patch_embed.proj.weight, seen[0]):
        assert tensor.is_contiguous(memory_format=layout)


def test_a_loaders_batches_are_waited_for(small, tmp_path, monkeypatch):
    work = CONTENDERS["loader"](BenchTrain(**small), tmp_path)
    work.start()
    waits = []
    monkeypatch.setattr(work.clock, "now", lambda: waits.append("for the device"))
    work.steps(2)
    assert waits == ["for the device"]


def test_steps_go_on_after_the_end_of_an_epoch(small, tmp_path):
    work = CONTENDERS["train"](BenchTrain(**small), tmp_path)  # epochs of five batches
    work.start()
    assert work.steps(11) == 11 * 12


@pytest.mark.parametrize("has_matmul", [True, False])
def test_timms_fastest_is_compiled_and_channels_last_in_bf16_where_that_is_fast(
    small, tmp_path, monkeypatch, has_matmul
):
    compiled = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda model: compiled.append(model))
    monkeypatch.setattr("benchmarks.peers.timm_train.has_bf16_matmul", lambda device: has_matmul)
    work = CONTENDERS["timm-compiled"](BenchTrain(**small), tmp_path)
    assert compiled == [work._model]
    assert work._model.patch_embed.proj.weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(work._autocast(), torch.autocast if has_matmul else nullcontext)


def test_timm_has_as_many_workers_as_ours_has_threads(small, tmp_path):
    work = CONTENDERS["timm"](BenchTrain(**small | {"threads": 2}), tmp_path)
    assert work._loader.loader.num_workers == 2


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


@pytest.mark.parametrize(("at", "side"), [(0, 24), (1, 32)])
def test_flops_of_a_teacher_count(at, side):
    plain, distilled = (
        model_flops_per_image(BenchTrain(preset=f"cifar10-vit-small-{name}", at=at)) for name in ("fast", "distilled")
    )
    teacher = build_model("resnet_fast_cifar", num_classes=1, resolution=32)
    assert distilled - plain == pytest.approx(forward_flops_per_image(teacher, side))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": ("nope",)}, "unknown contender 'nope'; choose from: loader, matmuls, step, timm"),
        ({"preset": "nope"}, "unknown preset 'nope'"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"at": 1.5}, r"at must lie in \[0, 1\], got 1.5"),
        ({"at": 0.5, "resolution": 32}, "at must stay 1 with resolution, which leaves the phases out, got 0.5"),
        ({"sweep": (), "contenders": ("train",)}, "sweep measures the contender step alone: leave --contenders"),
        ({"sweep": ("nope",)}, "sweep knows no option 'nope'; choose from: precision, compile, channels_last, batch"),
        ({"device": "cuda"}, "device is cuda, but torch sees no CUDA device"),
        ({"backend": "nope"}, "data.backend must be one of"),
        ({"batch_size": 5, "preset": "imagenet-resnet50-rsb-a2"}, "accumulate must divide batch_size 5"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchTrain(**changes)
