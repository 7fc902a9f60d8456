"""Models classify in every case that the device has, with the weights and the accuracy of their runs."""

import json
import statistics
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.bench_inference import BenchInference, bench_inference
from benchmarks.cli import main
from benchmarks.inference.models import Source
from benchmarks.inference.serving import Case, Serving
from fastvit_train import checkpoint
from fastvit_train.config import AugmentConfig, DataConfig
from fastvit_train.models import MODELS
from fastvit_train.restore import restore
from fastvit_train.train import train
from loaders.errors import FastvitError
from runs import TINY, tiny_cifar_vit, tiny_run

CPU = torch.device("cpu")
FAST = {"device": "cpu", "threads": 1, "rounds": 2, "seconds": 0.01}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """A small ViT that is a tiny one, and a machine that multiplies bf16 and has a compiler."""
    monkeypatch.setitem(MODELS, "vit_small_cifar", tiny_cifar_vit)
    monkeypatch.setattr("benchmarks.bench_inference.has_bf16_matmul", lambda device: True)
    monkeypatch.setattr("benchmarks.bench_inference.can_compile", lambda device: True)


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_set_in):
    """A run of some steps, with averaged weights; its folder and its result."""
    folder = tmp_path_factory.mktemp("runs")
    sets = [make_set_in(folder, f"{name}.beton", 60, num_classes=4).path for name in ("train", "val")]
    data = DataConfig(train=sets[0], val=sets[1], backend="resident", crop="whole", resolution=32)
    config = replace(tiny_run(folder / "a-run", data), epochs=2, ema_half_life_epochs=1.0, augment=AugmentConfig())
    return folder / "a-run", train(config)


def serving(source: Source, *, batch_size: int = 3, precision: str = "fp32", mode: str = "eager") -> Serving:
    return Serving(source, Case(batch_size, precision, mode), device=CPU, threads=1, seconds=0.01)


@pytest.fixture
def compiled_modes(monkeypatch):
    """What compiling was asked for: it takes too long for every test."""
    modes = []
    monkeypatch.setattr(
        "benchmarks.inference.serving.compile_models", lambda config, device, model: modes.append(config.compile)
    )
    return modes


@pytest.mark.usefixtures("in_process")
def test_a_row_for_each_case_of_each_model(run, tmp_path, monkeypatch, capsys):
    folder, result = run
    out = tmp_path / "rows.jsonl"
    options = ["--models", "vit_small_cifar@32", "--batch-sizes", "1", "5", "--modes", "eager", "--json", str(out)]
    options += [word for name, value in FAST.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "inference", str(folder), *options])
    assert main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    cases = [(row["model"], row["batch_size"], row["precision"]) for row in rows]
    models = ("a-run", "vit_small_cifar@32")
    assert cases == [(name, size, precision) for name in models for size in (1, 5) for precision in ("fp32", "bf16")]
    for row in rows:
        assert row["benchmark"] == "inference"
        assert (row["compiled"], row["compile_seconds"], row["device"], row["threads"]) == (False, None, "cpu", 1)
        assert row["images_per_second"] == statistics.median(row["rounds"])
        assert row["num_calls"] >= len(row["rounds"]) == 2
        assert 0 < row["latency_seconds"] <= row["latency_seconds_p95"]
        assert row["peak_rss_bytes"] > 50 * 2**20
        assert row["machine"]["cpu"]
    trained, named = rows[0], rows[-1]
    assert (trained["run"], trained["arch"], trained["top1"]) == ("a-run", TINY, result["best_top1"])
    assert (named["run"], named["top1"], named["arch"], named["resolution"]) == (None, None, "vit_small_cifar", 32)
    said = capsys.readouterr().out
    assert f"a-run: {trained['flops_per_image'] / 1e9:.2f} GFLOP per image" in said
    assert f"top-1 {100 * result['best_top1']:.2f} %" in said


@pytest.mark.usefixtures("in_process", "compiled_modes")
def test_the_cases_of_a_model_and_a_batch_size_take_turns_and_are_kept(tmp_path, monkeypatch):
    turns, out = [], tmp_path / "rows.jsonl"

    def call(self):
        if self._case.batch_size == 2:
            raise FastvitError("no memory")
        turns.append(self._case)
        return 1.0

    monkeypatch.setattr(Serving, "_call", call)
    with pytest.raises(FastvitError, match="^no memory$"):
        bench_inference(BenchInference(**FAST, models=("vit_small_cifar@32",), batch_sizes=(1, 2), json=out))
    cases = [Case(1, precision, mode) for precision in ("fp32", "bf16") for mode in ("eager", "compiled")]
    assert turns[-8:] == [*cases, *cases]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["latency_seconds"], row["latency_seconds_p95"], row["num_calls"]) for row in rows] == [(1, 1, 2)] * 4


def test_only_a_compiled_model_has_seconds_of_compiling(compiled_modes):
    for mode, expected in (("eager", "off"), ("compiled", "default")):
        subject = serving(Source("vit_small_cifar@32"), mode=mode)
        subject.warm_up()
        assert compiled_modes[-1] == expected
        assert (subject.measured().compile_seconds is None) == (mode == "eager")


def test_warming_up_is_not_measured():
    subject = serving(Source("vit_small_cifar@32"))
    assert subject.warm_up() >= 2 * 3
    assert subject.measured().latencies == []
    assert subject.round() == 3 * len(subject.measured().latencies)


def test_the_weights_are_those_that_the_run_evaluated(run):
    folder, _ = run
    state = checkpoint.load(folder / "checkpoint.pt")
    mine = serving(Source("a-run", folder / "checkpoint.pt")).model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in state["ema"].items())
    assert not all(torch.equal(mine[name], value) for name, value in state["model"].items())


def test_a_run_whose_options_want_bf16_is_measured_in_fp32_too(run, monkeypatch):
    folder, _ = run
    restored = restore(folder)
    wants_bf16 = replace(restored.config, precision="bf16", model=replace(restored.config.model, bf16_residual=True))
    monkeypatch.setattr("benchmarks.inference.models.restore", lambda path: restored._replace(config=wants_bf16))
    assert serving(Source("a-run", folder)).logits().dtype == torch.float32


@pytest.mark.parametrize("arch", ["vit_small_cifar", "resnet_fast_cifar", "resnet18_cifar"])
def test_bf16_gives_the_same_logits_but_for_its_digits(arch):
    exact, rounded = (
        serving(Source(f"{arch}@32"), batch_size=16, precision=precision).logits() for precision in ("fp32", "bf16")
    )
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert exact.shape == (16, 10)
    error = (exact - rounded.float()).abs().max()
    assert 0 < error < 0.05 * exact.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_logits_are_those_of_eager(precision):
    eager, compiled = (
        serving(Source("vit_small_cifar@32"), precision=precision, mode=mode).logits() for mode in ("eager", "compiled")
    )
    torch.testing.assert_close(compiled, eager, rtol=0.02, atol=0.02 if precision == "bf16" else 1e-4)


@pytest.mark.usefixtures("in_process")
def test_what_the_machine_lacks_is_left_out_and_said(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.bench_inference.has_bf16_matmul", lambda device: False)
    monkeypatch.setattr("benchmarks.bench_inference.can_compile", lambda device: False)
    rows = bench_inference(BenchInference(**FAST, models=("vit_small_cifar@32",), batch_sizes=(1,)))
    assert [(row["precision"], row["compiled"]) for row in rows] == [("fp32", False)]
    printed = capsys.readouterr()
    for line in (
        "eft out: bf16, as this cpu does not multiply it in hardware",
        "eft out: compiled, as there is no C++ compiler (g++, or what CXX names)",
    ):
        assert line in printed.err
        assert line in printed.out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precisions": ("bf16",)}, "^precisions names bf16, but this cpu does not multiply it in hardware; leave it"),
        ({"modes": ("eager", "compiled")}, r"^modes names compiled, but there is no C\+\+ compiler"),
    ],
)
def test_what_is_asked_for_is_not_left_out(monkeypatch, option, message):
    monkeypatch.setattr("benchmarks.bench_inference.has_bf16_matmul", lambda device: False)
    monkeypatch.setattr("benchmarks.bench_inference.can_compile", lambda device: False)
    with pytest.raises(FastvitError, match=message):
        bench_inference(BenchInference(**FAST, models=("vit_small_cifar@32",), **option))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("vit_small_cifar",)}, "^models must be given as ARCH@PX, such as vit_b16@224, got 'vit_small_c"),
        ({"models": ("vit_small_cifar@0",)}, "^models must be given as ARCH@PX"),
        ({"models": ("nope@32",)}, "unknown arch 'nope'"),
        ({"models": ("vit_b16@100",)}, "100"),
        ({"batch_sizes": (0,)}, "^batch_sizes must be positive, got 0"),
        ({"batch_sizes": ()}, "^batch_sizes must name at least one"),
        ({"seconds": 0.0}, "^seconds must be positive, got 0"),
        ({"rounds": 0}, "^rounds must be positive, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(FastvitError, match=message):
        BenchInference(**options)


def test_a_folder_without_a_checkpoint_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(FastvitError, match="has neither best.pt nor checkpoint.pt"):
        bench_inference(BenchInference(runs=(tmp_path,), device="cpu"))


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    config = BenchInference(runs=(tmp_path / "a/run", tmp_path / "b/run", tmp_path / "a/run"))
    assert [source.name for source in config.sources] == ["a/run", "b/run"]


def test_a_card_without_enough_memory_says_what_to_change(monkeypatch):
    subject = serving(Source("vit_small_cifar@32"), batch_size=7)

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(subject, "logits", full)
    with pytest.raises(FastvitError, match="^7 images at once need more memory than the GPU has; give smaller --batch"):
        subject.warm_up()
