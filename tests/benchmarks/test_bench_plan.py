"""The command `fastvit-bench plan`: its rows, its table, its errors; and what it measures."""

import json
import sys

import pytest

from benchmarks import noise
from benchmarks.bench_plan import BenchPlan, bench_plan
from benchmarks.cli import main
from benchmarks.plan import check, measure
from benchmarks.plan.check import CheckPlan, check_plan
from fastvit_train.models import MODELS
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError
from runs import tiny_cifar_vit


def test_a_row_for_each_number_of_gpus(tmp_path, monkeypatch, capsys):
    out = tmp_path / "plan.jsonl"
    options = ["--gpus", "1", "8", "64", "--watts-per-gpu", "700", "--price", "3"]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "plan", *options, "--json", str(out)])
    assert main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["num_gpus"] for row in rows] == [1, 8, 64]
    for row in rows:
        assert (row["benchmark"], row["preset"], row["num_images"]) == ("plan", "imagenet-vit-b16-130", 880_000)
        assert (row["epochs"], row["batch_size"]) == (130, 1024)
        assert row["kilowatt_hours"] == pytest.approx(0.7 * row["hours"] * row["num_gpus"])
        assert row["price"] == pytest.approx(3 * row["hours"] * row["num_gpus"])
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert row["command"].startswith("fastvit-bench plan --gpus")
        assert row["machine"]["cpu"]
        phases = row["assumptions"]["phases"]
        assert {(phase["resolution"], phase["num_steps"]) for phase in phases} == {(192, 94490), (224, 17180)}
    one, eight, many = rows
    assert one["hours"] > eight["hours"] > many["hours"]
    assert one["limited_by"] == "step"
    assert many["limited_by"] == "launch"
    assert one["needs"]["network_bytes_per_second_per_node"] is None
    printed = capsys.readouterr().out
    assert "3,809 images/s at 224 px on one NVIDIA H200" in printed
    assert "what each machine needs so that no GPU waits" in printed


def test_given_rates_and_a_batch_for_each_gpu():
    given = {"images_per_second_per_gpu": 1000.0, "batch_size_per_gpu": 128, "epochs": 2.0}
    one, eight = bench_plan(BenchPlan(preset="cifar10-resnet50", **given, gpus=(1, 8)))
    assert (one["batch_size"], eight["batch_size"]) == (128, 1024)
    assert one["images_per_second"] == pytest.approx(1000)
    assert one["kilowatt_hours"] is one["price"] is None
    short = bench_plan(BenchPlan(preset="cifar10-resnet50", **given, cores=2, images_per_second_per_core=400.0))[0]
    assert short["limited_by"] == "loader"
    assert short["images_per_second"] == pytest.approx(400)
    slow = bench_plan(BenchPlan(preset="cifar10-resnet50", **given, storage_bytes_per_second=54_451 * 500))[0]
    assert slow["limited_by"] == "storage"
    assert slow["images_per_second"] == pytest.approx(500)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "cifar10-rocket"}, "unknown preset 'cifar10-rocket'"),
        ({"gpus": ()}, "gpus must be positive numbers, got none"),
        ({"gpus": (8, 0)}, "gpus must be positive numbers, got 8 0"),
        ({"images_per_second_per_gpu": 0.0}, "images_per_second_per_gpu must be positive, got 0"),
        ({"price": float("nan")}, "price must be positive, got nan"),
        ({"cache_bytes": -1.0}, "cache_bytes must not be negative, got -1"),
        ({"cores": 0}, "cores must be positive, got 0"),
        ({"batch_size": 8, "batch_size_per_gpu": 8}, "give one of --batch-size and --batch-size-per-gpu"),
        ({"measure": True}, "--measure loads and evaluates: give it --data and --val"),
        ({"preset": "cifar10-vit-small-distilled"}, "cifar10-vit-small-distilled trains a teacher first, which a plan"),
        ({"gpus": (1, 7)}, "batch_size 1024 is over all devices and must be a multiple of 7 devices"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(FastvitError) as caught:
        BenchPlan(**options)
    assert message in str(caught.value)


def test_the_bytes_of_the_data_count(make_set, tmp_path):
    images = make_set("train.beton", 60, num_classes=10).path
    options = {"preset": "cifar10-vit-small", "images_per_second_per_gpu": 100.0, "batch_size": 12, "gpus": (1,)}
    (row,) = bench_plan(BenchPlan(**options, data=images, val=images))
    assert (row["num_images"], row["assumptions"]["num_val_images"]) == (60, 60)
    assert row["assumptions"]["bytes_per_image"] == images.stat().st_size / 60
    with pytest.raises(FastvitError, match=r"missing\.beton"):
        bench_plan(BenchPlan(**options, data=tmp_path / "missing.beton"))


def test_rates_of_this_machine(make_set, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "vit_small_cifar", tiny_cifar_vit)
    monkeypatch.setattr(measure, "_SECONDS", 0.05)
    monkeypatch.setattr(noise, "_warnings", lambda *_, **others: ["Others were busy."])
    images = make_set("train.beton", 60, num_classes=10).path
    options = {"preset": "cifar10-vit-small-fast", "batch_size": 12, "gpus": (1,), "epochs": 3.0}
    (row,) = bench_plan(BenchPlan(**options, measure=True, data=images, val=images))
    assumptions = row["assumptions"]
    assert {(phase["resolution"], phase["patch_drop"]) for phase in assumptions["phases"]} == {
        (24, 0.5),
        (32, 0.5),
    }
    for phase in assumptions["phases"]:
        assert 0 < phase["images_per_second"] < phase["loader_images_per_second_per_core"]
    assert assumptions["evaluation_images_per_second"] > 0
    assert assumptions["on_cpu"]
    assert assumptions["cores"] == usable_cpus()
    assert assumptions["rest_seconds"] > 0
    assert 0 < assumptions["disk_bytes_per_second"] < 1e12
    assert row["shares"]["loader_wait"] > 0
    assert row["noise"]["warnings"] == ["Others were busy."]
    printed = capsys.readouterr().out
    assert "measured on cpu" in printed
    assert "Warning: Others were busy." in printed


def test_a_check_says_how_far_a_plan_was_off(monkeypatch, tmp_path, capsys):
    done = []

    def run(module: str, *arguments: str) -> None:
        done.append((module, arguments))
        if module == "benchmarks.cli":
            row = {"hours": 1.1, "preset": arguments[2], "epochs": 2.2, "assumptions": {"source": "a test"}}
            (tmp_path / "made.jsonl").write_text(json.dumps(row))
            out = arguments[arguments.index("--json") + 1]
            (tmp_path / "made.jsonl").rename(out)

    clock = iter([100.0, 3700.0])
    monkeypatch.setattr(check, "_run", run)
    monkeypatch.setattr(check.time, "perf_counter", lambda: next(clock))
    (row,) = check_plan(CheckPlan(cases=("phases",), json=tmp_path / "rows.jsonl"))
    (plan, options), (train, train_options) = done
    assert (plan, train) == ("benchmarks.cli", "fastvit_train.cli")
    assert options[:6] == ("plan", "--preset", "cifar10-quick", "--epochs", "4.5", "--data")
    assert train_options[:4] == ("--preset", "cifar10-quick", "--epochs", "4.5")
    assert row["measured_hours"] == pytest.approx(1)
    assert row["miss"] == pytest.approx(0.1)
    assert json.loads((tmp_path / "rows.jsonl").read_text())["case"] == "phases"
    assert "+10.0%" in capsys.readouterr().out
