"""Rows of experiments: what a run folder tells, and one row for each."""

import json
from dataclasses import replace
from datetime import datetime

import pytest

from benchmarks.plan.job import describe_job
from benchmarks.reference.results import keep_row, last_epoch_accuracy, run_row, training_flops
from benchmarks.reference.runs import run_program
from benchmarks.row_files import append_rows, read_rows
from fastvit_train.config import DistillConfig
from fastvit_train.presets import build_preset


@pytest.fixture
def done(programs, make_experiment):
    """A run that is done, and the program's folder."""
    (run,) = programs.planned(make_experiment("first", reference="resnet-fast-cifar10"), seed=4)
    run_program("fastvit-train", run.arguments, log=run.folder / "log.txt", deadline=float("inf"))
    return run, programs


def test_a_row(done):
    run, _ = done
    row = run_row(run, scale="cpu")
    told = {
        "benchmark": "reference",
        "scale": "cpu",
        "experiment": "first",
        "title": "the first",
        "part": "table",
        "family": "ResNet",
        "reference": "resnet-fast-cifar10",
        "preset": "cifar10-quick",
        "fraction": 1.0,
        "arch": "resnet_fast_cifar",
        "epochs": 6,
        "resolution": 32,
        "seed": 4,
        "num_train_images": 500,
        "starts_from": None,
        "top1": 0.5,
        "top1_averaged": None,
        "train_top1": 0.5,
        "num_parameters": 100,
        "train_seconds": 30.0,
        "teacher_seconds": None,
        "eval_seconds": 6.0,
        "device_hours": 0.02,
        "images_per_second": 10.0,
        "device": "a CPU",
        "world_size": 2,
        "command": run.command,
        "commit": "abc",
        "dirty": False,
    }
    assert {name: row[name] for name in told} == told
    assert datetime.fromisoformat(row["date"]).timestamp() == int((run.folder / "result.json").stat().st_mtime)
    assert row["versions"]["torch"] == "2.14.1"
    assert row["machine"]["cores"] == 2
    assert row.keys() - told.keys() == {"flops", "date", "versions", "machine"}


def test_operations_of_a_training(done):
    run, _ = done
    job = describe_job(run.config, num_images=500, num_val_images=0)
    (each,) = {job.flops_per_image[epoch.phase] for epoch in job.epochs}
    assert run_row(run, scale="cpu")["flops"] == 6 * 500 * each


def test_operations_of_a_distilled_training():
    student = build_preset("cifar10-vit-small-distilled", epochs=10)
    plain = replace(student, distill=DistillConfig())
    teacher = training_flops(build_preset("cifar10-quick"), num_images=50_000)
    answers = training_flops(student, num_images=50_000) - training_flops(plain, num_images=50_000) - teacher
    # Forward is a third of a training step. Some of the 10 epochs are at 24 px, which is about 9/16 of the work at 32.
    epochs_of_answers = 6 * 3 * answers / teacher
    assert 10 * 9 / 16 < epochs_of_answers < 10


def test_a_teacher_counts(done):
    run, programs = done
    result = json.loads((programs.folder / "result.json").read_text()) | {"teacher_seconds": 18.0}
    (run.folder / "result.json").write_text(json.dumps(result))
    row = run_row(run, scale="cpu")
    assert (row["teacher_seconds"], row["device_hours"]) == (18.0, 0.03)


def line(step, epoch, accuracy, kind="train"):
    return {"kind": kind, "step": step, "epoch": epoch, "accuracy": accuracy}


def test_accuracy_of_the_last_epoch_by_its_steps():
    lines = [line(10, 0, 0.1), line(13, 0, 0.2), line(13, 1, None, "eval"), line(14, 1, 0.4), line(17, 1, 0.8)]
    assert last_epoch_accuracy(lines) == pytest.approx((0.4 + 3 * 0.8) / 4)
    assert last_epoch_accuracy(lines[:1]) == 0.1
    assert last_epoch_accuracy([]) is None


def test_one_row_for_each_experiment(tmp_path):
    path = tmp_path / "rows.jsonl"
    first, second = ({"benchmark": "reference", "experiment": name, "top1": 0.5} for name in ("first", "second"))
    inference = [{"benchmark": "inference", "run": name} for name in ("first", "second")]
    keep_row(path, first)
    keep_row(path, second)
    append_rows(path, inference)
    keep_row(path, first)
    assert read_rows(path) == [first, second, *inference]
    better = first | {"top1": 0.6}
    keep_row(path, better)
    assert read_rows(path) == [second, inference[1], better]
