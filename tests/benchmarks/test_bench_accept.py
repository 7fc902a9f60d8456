"""Acceptance: every stage runs on the CPU; whatever a job does, its row is there and the others go on, in time."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.accept import gpu_tests as tests_stage
from benchmarks.accept import training
from benchmarks.accept.accuracy import GOALS, reach
from benchmarks.accept.plan import STAGES
from benchmarks.accept.report import write_report
from benchmarks.accept.runner import Runner, _do
from benchmarks.accept.setting import Job, LeftOut, Setting, make_setting
from benchmarks.bench_accept import BenchAccept, bench_accept
from benchmarks.row_files import read_rows
from benchmarks.step_cost import DeviceCost
from fastvit_train.presets import PRESETS
from loaders import LoaderConfig, build_loader

ROOT = Path(__file__).parents[2]
ORIGIN = {
    "command": "fastvit-bench accept",
    "commit": "abc",
    "dirty": False,
    "versions": {"torch": "2"},
    "machine": {"cpu": "one", "cores": 2, "memory_bytes": 2**30, "gpu": None},
}


@pytest.fixture
def setting(tmp_path):
    return Setting(
        device="cpu",
        photos=tmp_path,
        small_images=(tmp_path, tmp_path),
        has_cifar10=False,
        work=tmp_path,
        rows=tmp_path / "rows.jsonl",
        origin=ORIGIN,
    )


def _works(_):
    yield {"value": 1}
    yield {"value": 2, "problem": "too small"}


def _fails(_):
    yield {"value": 3}
    raise KeyError("whence")


def _is_not_here(_):
    raise LeftOut("no such library")


def _dies(_):
    os._exit(3)


def _hangs(_):
    yield {"value": 4}
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_a_job_does_the_others_go_on(setting, tmp_path):
    works = {"works": _works, "fails": _fails, "is not here": _is_not_here, "dies": _dies, "hangs": _hangs}
    jobs = [Job("stage", name, work, 25 if name == "hangs" else 60) for name, work in works.items()]
    runner = Runner(setting, deadline=time.monotonic() + 280, log=tmp_path / "log.txt")
    order = []
    runner.run_in_turn([*jobs, Job("stage", "again", _works, 60)], after_each=lambda job: order.append(job.name))
    assert order == [*works, "again"]
    rows = [(row["name"], row["status"], row.get("problem"), row.get("value")) for row in read_rows(setting.rows)]
    ends = {("works", "passed", None, 1), ("works", "failed", "too small", 2)}
    ends |= {("fails", "passed", None, 3), ("fails", "failed", "KeyError: 'whence'", None)}
    ends |= {("is not here", "left out", None, None), ("hangs", "failed", "not done in 25 s", None)}
    ends |= {("dies", "failed", "the process of accept died (exit code 3)", None), ("hangs", "passed", None, 4)}
    assert set(rows) == ends | {("again", "passed", None, 1), ("again", "failed", "too small", 2)}
    assert "KeyError" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_the_time_ends_what_runs_then(setting, tmp_path):
    start = time.monotonic()
    runner = Runner(setting, deadline=start + 20, log=tmp_path / "log.txt")
    runner.run_in_turn([Job("stage", "hangs", _hangs, 600)], after_each=lambda job: None)
    assert time.monotonic() - start < 30
    assert read_rows(setting.rows)[-1]["reason"] == "the time was up before it ended"


def test_what_needs_more_time_than_is_left_is_left_out(setting, tmp_path):
    runner = Runner(setting, deadline=time.monotonic() + 1, log=tmp_path / "log.txt")
    runner.run_in_turn([Job("stage", "long", _works, 60)], after_each=lambda job: None)
    (row,) = read_rows(setting.rows)
    assert (row["status"], row["reason"]) == ("left out", "1 s were left of the 5 that it needs")
    assert row["machine"]["cpu"] == "one"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rehearsal_on_the_cpu_runs_every_stage(tmp_path):
    """As `make gpu-check` calls it, from the root of the checkout."""
    command = ["make", "gpu-check", f"PYTHON={sys.executable}"]
    options = ["--device", "cpu", "--minutes", "9", "--out", str(tmp_path), "--data", str(tmp_path)]
    done = subprocess.run([*command, f"ARGS={' '.join(options)}"], cwd=ROOT, capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{log}"
    rows = read_rows(tmp_path / "rows.jsonl")
    assert {row["stage"] for row in rows} == set(STAGES)
    without_dali = {"dali on the CPU", "dali", "plain DALI"}
    assert {row["name"] for row in rows if row["status"] != "passed"} <= without_dali
    resumed = next(row for row in rows if row["stage"] == "resume")
    assert 0 < resumed["resumed_at_step"] < resumed["steps"]
    assert resumed["different"] == []
    assert (tmp_path / "report.md").read_text() in done.stdout


ROWS = [
    {"what": "matmul", "unit": "TFLOP/s", "value": 500.0, "stage": "ceilings", "status": "passed"},
    {
        "stage": "train",
        "status": "passed",
        "model": "ViT-B/16",
        "variant": "auto",
        "images_per_second": 1800.0,
        "rounds": [1700.0, 1800.0, 1900.0],
        "goal_images_per_second": 3600,
        "flops_per_image": 1e11,
        "peak_flops_per_second": 9e14,
        "step_milliseconds": 142.2,
        "first_step_seconds": 30.0,
    },
    {
        "stage": "train",
        "status": "passed",
        "model": "ViT-B/16",
        "variant": "auto",
        "host_milliseconds": 3.25,
        "device_milliseconds": 70.0,
        "longest_kernels": [["gemm", 30.0, 12.0], ["gelu", 3.0, 1.0]],
        "synchronisations_in_4_steps": {"train.py:7": 4},
    },
    {"stage": "decoding", "status": "failed", "problem": "<broken> | pipe"},
    {"stage": "accuracy", "status": "left out", "reason": "3 s were left"},
]


def test_the_report_says_what_was_found(tmp_path):
    rows = [{"name": "it", "device": "cuda", **ORIGIN, **row} for row in ROWS]
    write_report(tmp_path, rows, minutes=7, seconds=210, is_done=True)
    page = (tmp_path / "report.md").read_text()
    assert "- FAILED. 3 rows, 1 failures, 1 left out; 3.5 of 7 minutes." in page
    assert "- FAILED decoding, it: <broken> | pipe" in page
    assert "- Left out accuracy, it: 3 s were left" in page
    assert "| ViT-B/16 | auto | 1,800 | 1,700-1,900 | 3,600 (50%) | 36.0% | 20.0% | 142.20 |" in page
    assert "| 4 x train.py:7 | 30.00 gemm; 3.00 gelu |" in page
    assert "- commit: abc\n" in page
    html = (tmp_path / "report.html").read_text()
    assert "&lt;broken&gt; | pipe" in html
    assert "://" not in html  # it needs nothing else


def test_a_report_of_a_run_that_goes_on_says_so(tmp_path):
    write_report(tmp_path, [], minutes=7, seconds=0, is_done=False)
    assert "Not finished." in (tmp_path / "report.md").read_text()


@pytest.fixture
def one_job(monkeypatch, setting):
    """Have the command run one job alone, in this process, on no images."""
    monkeypatch.setattr("benchmarks.bench_accept.Runner", _InThisProcess)
    monkeypatch.setattr("benchmarks.bench_accept.environment", lambda: ORIGIN)
    monkeypatch.setattr(
        "benchmarks.bench_accept.make_setting",
        lambda *, rows, origin, **_: dataclasses.replace(setting, rows=rows, origin=origin),
    )
    return lambda work: monkeypatch.setattr("benchmarks.bench_accept.STAGES", {"one": [Job("one", "job", work, 60)]})


def test_rows_of_earlier_runs_stay_but_are_not_reported(tmp_path, one_job, capsys):
    one_job(_is_not_here)
    for _ in range(2):
        rows = bench_accept(BenchAccept(device="cpu", out=tmp_path, stages=("one",), commit="mine"))
        assert len(rows) == 1
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["commit"] for line in lines] == ["mine", "mine"]
    assert "one: job: left out no such library" in capsys.readouterr().out


def test_a_failure_ends_the_command_with_an_error(tmp_path, one_job):
    one_job(_works)
    with pytest.raises(RuntimeError, match="^1 failed: one: job; see "):
        bench_accept(BenchAccept(device="cpu", out=tmp_path, stages=("one",)))
    assert "FAILED one, job: too small" in (tmp_path / "report.md").read_text()


class _InThisProcess(Runner):
    """Runs jobs without processes."""

    def run_in_turn(self, jobs, *, after_each):
        for job in jobs:
            _do(self._setting, job)
            after_each(job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0}, "minutes must be positive, got 0"),
        ({"stages": ("nope",)}, "unknown stage 'nope'; choose from: accuracy, augmentation"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchAccept(**changes)


def test_no_card_is_told_before_anything_begins(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device; --device cpu rehearses the stages"):
        bench_accept(BenchAccept(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_stages_keep_their_order_and_a_rehearsal_has_a_part_of_them():
    chosen = BenchAccept(stages=("accuracy,train",)).jobs
    assert [job.stage for job in chosen] == ["train"] * len(STAGES["train"]) + ["accuracy"] * len(STAGES["accuracy"])
    rehearsed = BenchAccept(device="cpu").jobs
    assert {job.stage for job in rehearsed} == set(STAGES)
    assert len(rehearsed) < len(BenchAccept(device="cuda").jobs)


def test_goals_are_of_presets_that_there_are():
    assert {goal.preset for goal in GOALS} <= PRESETS.keys()


def test_without_cifar10_there_is_no_accuracy_on_a_card(setting):
    with pytest.raises(LeftOut, match="no cifar10_train.beton"):
        list(reach(dataclasses.replace(setting, device="cuda"), goal=GOALS[0]))


def test_images_are_made_where_there_are_none(tmp_path):
    made = make_setting(
        device="cpu", photos=None, data=tmp_path, work=tmp_path, rows=tmp_path / "rows.jsonl", origin=ORIGIN
    )
    assert not made.has_cifar10
    for path, resolution in ((made.photos, 64), (made.small_images[0], 32), (made.small_images[1], 32)):
        options = LoaderConfig(batch_size=50, resolution=resolution, crop="center", order="sequential", drop_last=True)
        with closing(build_loader("native", path, options)) as loader:
            batch = next(iter(loader))
        assert batch.images.float().std() > 20
        assert len(set(batch.labels.tolist())) >= 10


def test_cifar10_is_found(tmp_path, monkeypatch):
    for split in ("train", "test"):
        (tmp_path / f"cifar10_{split}.beton").touch()
    photos = tmp_path / "photos.beton"
    photos.touch()
    made = make_setting(
        device="cuda", photos=photos, data=tmp_path, work=tmp_path, rows=tmp_path / "rows.jsonl", origin=ORIGIN
    )
    assert made.has_cifar10
    assert made.small_images == (tmp_path / "cifar10_train.beton", tmp_path / "cifar10_test.beton")


def test_training_on_a_card_says_where_a_step_goes(setting, make_set, monkeypatch):
    """On the CPU, with stand-ins for what only a card can tell; the report takes the rows."""
    images = make_set("train.beton", 60, num_classes=10).path
    subject = training.Subject(preset="cifar10-quick", batch_size=8, is_small=True, goal=100)
    monkeypatch.setattr(training, "SUBJECTS", {"small": subject})
    monkeypatch.setattr(training, "_ROUND_SECONDS", 0)
    monkeypatch.setattr(training, "VARIANTS", {"auto": {"compile": "off"}})
    monkeypatch.setattr(Setting, "on_cuda", property(lambda self: True))
    steps = []
    cost = DeviceCost(busy_milliseconds=1e-3, num_kernels=7, longest=[("gemm", 0.5, 2.0)])
    monkeypatch.setattr(training, "host_milliseconds", lambda step: steps.append(step()) or 2.5)
    monkeypatch.setattr(training, "device_cost", lambda step: steps.append(step()) or cost)
    monkeypatch.setattr(training, "synchronisations", lambda step: steps.append(step()) or {"train.py:1": 4})
    here = dataclasses.replace(setting, small_images=(images, images))
    speed, where = training.train(here, name="small", variant="auto")
    assert len(speed["rounds"]) == 5
    assert speed["steps_per_round"] == 4
    assert speed["images_per_second"] > 0
    assert 0 <= speed["data_wait_fraction"] < 1
    assert steps == [8, 8, 8]
    assert where["host_milliseconds"] == 2.5
    assert 0.9 < where["device_idle_fraction"] < 1
    for row in (speed, where):
        here.add_row("train", "small, auto", "passed", row)
    write_report(here.work, read_rows(here.rows), minutes=1, seconds=1, is_done=True)
    assert "| small | auto | 0.00 | " in (here.work / "report.md").read_text()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder of tests; returns a function that fills it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: x\n")
    (tmp_path / "tests").mkdir()

    def fill(body):
        text = f"import pytest\n@pytest.mark.gpu\ndef test_it():\n    {body}\ndef test_other(): assert False\n"
        (tmp_path / "tests" / "test_it.py").write_text(text)
        (tmp_path / "tests" / "test_no_import.py").write_text("import no_such_package")

    return fill


@pytest.mark.parametrize(
    ("body", "passed", "problem"), [("import loaders._native", 1, None), ("assert 1 == 2", 0, "1 tests failed")]
)
def test_tests_that_need_a_card_run_and_no_others(checkout, setting, body, passed, problem):
    checkout(body)
    (row,) = tests_stage.gpu_tests(setting)
    assert (row["passed"], row["failed"], row["problem"]) == (passed, 1 - passed, problem)
    assert ("assert 1 == 2" in str(row["failures"])) == (not passed)


def test_without_a_checkout_the_tests_are_left_out(tmp_path, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeftOut, match="root of a checkout"):
        list(tests_stage.gpu_tests(setting))


def test_gpu_check_takes_the_python_that_it_is_given():
    def commands(*variables):
        done = subprocess.run(
            ["make", "-n", "--no-print-directory", "gpu-check", *variables], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert commands("PYTHON=/opt/python").startswith("PYTHONSAFEPATH=1 /opt/python -c ")
    assert ".venv" not in commands("PYTHON=/opt/python", "ARGS=--minutes 3")
    assert "PYTHONSAFEPATH=1 .venv/bin/python -c " in commands()
