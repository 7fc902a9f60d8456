"""The reference experiments as one command: what is checked before, what is said, and a small whole one."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import bench_reference as module
from benchmarks import cli
from benchmarks.bench_reference import BenchReference, bench_reference
from benchmarks.reference.data_sets import DataSet
from benchmarks.reference.experiments import SCALES, Experiment
from benchmarks.reference.session import Stop
from benchmarks.row_files import read_rows
from fastvit_train.config_json import to_dict


def experiment(name, **changed):
    options = {"title": f"the {name}", "part": "table", "family": "ResNet", "data": "cifar10"}
    return Experiment(name=name, **(options | {"options": ("--preset", "cifar10-quick")} | changed))


@pytest.fixture
def small(monkeypatch):
    """A scale of three experiments, data that is there, and hours that are known."""
    found = (
        experiment("first"),
        experiment("tuned", starts_from="first"),
        experiment("less", part="fractions", data="cifar10-5"),
    )
    monkeypatch.setitem(SCALES, "cpu", found)
    monkeypatch.setattr(module.data_sets, "problems", lambda names, sources: [])
    monkeypatch.setattr(
        module.data_sets, "describe", lambda name, sources: DataSet(Path("train"), Path("val"), 2500, 100, 10)
    )
    monkeypatch.setattr(module.cost, "estimated_seconds", lambda configs, data, **_: dict.fromkeys(configs, 90.0))
    monkeypatch.setattr(module.cost, "estimate_source", lambda scale, **_: "a guess")
    return found


@pytest.fixture
def prepared(monkeypatch):
    """The data sets that are made."""
    found = []
    monkeypatch.setattr(module.data_sets, "prepare", lambda name, sources: found.append(name))
    return found


@pytest.fixture
def sessions(monkeypatch):
    """What sessions are asked for, and how they end."""

    class Sessions:
        def __init__(self):
            self.calls, self.ends = [], None

        def start(self, *, scale, out, deadline):
            self.deadline = deadline
            return self

        def work(self, runs, *, with_inference):
            self.calls.append(([run.experiment.name for run in runs], with_inference))
            if isinstance(self.ends, BaseException):
                raise self.ends
            return self.ends

    found = Sessions()
    monkeypatch.setattr(module, "Session", found.start)
    return found


def run(monkeypatch, *arguments):
    argv = ["fastvit-bench", "reference", "--scale", "cpu", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(module, "provenance", lambda: {"command": " ".join(argv)})  # not pytest's
    return cli.main()


def finish(out, options, name="first"):
    """Leave what a run that is done leaves."""
    bench = BenchReference(scale="cpu", out=out, **options)
    (each,) = (run for run in module._planned(bench) if run.experiment.name == name)
    each.folder.mkdir(parents=True)
    (each.folder / "config.json").write_text(json.dumps(to_dict(each.config)))
    (each.folder / "result.json").write_text("{}")


def test_all_of_it(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--out", tmp_path / "out") == 0
    assert prepared == ["cifar10", "cifar10-5"]
    assert sessions.calls == [(["first", "tuned", "less"], True)]
    assert sessions.deadline == float("inf")
    printed = capsys.readouterr().out
    assert "the tuned" in printed
    assert "3 of 3 experiments are left: 4.5 min, by a guess" in " ".join(printed.split())


def test_what_is_done_is_said_and_its_data_is_not_made(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    finish(tmp_path / "out", {}, "less")
    assert run(monkeypatch, "--out", tmp_path / "out") == 0
    assert prepared == ["cifar10"]
    printed = capsys.readouterr().out
    assert "2 of 3 experiments are left: 3.0 min" in printed
    (line,) = (line for line in printed.splitlines() if "the less" in line)
    assert "100%" in line
    assert "min" not in line


def test_what_has_begun_takes_the_rest_of_its_time(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    finish(tmp_path / "out", {}, "less")
    (tmp_path / "out" / "less" / "result.json").unlink()
    step = {"kind": "train", "step": 10}  # of 6 epochs of 5 steps
    (tmp_path / "out" / "less" / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    assert run(monkeypatch, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "3 of 3 experiments are left: 4.0 min" in printed
    (line,) = (line for line in printed.splitlines() if "the less" in line)
    assert "33%" in line
    assert "1.0 min" in line


def test_a_dry_run_writes_nothing(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--out", tmp_path / "out", "--dry-run") == 0
    assert (prepared, sessions.calls) == ([], [])
    assert not (tmp_path / "out").exists()
    assert "the first" in capsys.readouterr().out


def test_some_experiments_in_the_order_of_the_scale(small, prepared, sessions, tmp_path, monkeypatch):
    out = ("--out", tmp_path / "out")
    assert run(monkeypatch, *out, "--experiments", "less,first") == 0
    assert run(monkeypatch, *out, "--experiments", "inference") == 0
    assert run(monkeypatch, *out, "--experiments", "first", "inference") == 0
    assert sessions.calls == [(["first", "less"], False), ([], True), (["first"], True)]


def test_what_it_starts_from_has_to_be_there(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    out = ("--out", tmp_path / "out", "--experiments", "tuned")
    assert run(monkeypatch, *out) == 1
    assert "tuned starts from first, which is not done; name it in --experiments too" in capsys.readouterr().err
    finish(tmp_path / "out", {})
    assert run(monkeypatch, *out) == 0
    assert sessions.calls == [(["tuned"], False)]


def test_all_problems_in_one_message(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        module.data_sets, "problems", lambda names, sources: [asked.append((names, sources)), "no CIFAR-10"][1:]
    )
    monkeypatch.setitem(SCALES, "cpu", small[1:])
    assert run(monkeypatch, "--out", tmp_path / "out", "--cifar10", "there", "--tiny-imagenet", "tiny.tar") == 1
    message = "fastvit-bench: tuned starts from first, which is not done; name it in --experiments too, or run it first"
    assert capsys.readouterr().err == f"{message}\nno CIFAR-10\n"
    ((names, sources),) = asked
    assert names == ["cifar10", "cifar10-5"]
    assert (sources.cifar10, sources.tiny_imagenet) == (Path("there"), Path("tiny.tar"))
    assert sources.folder == tmp_path / "out" / "data"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scale", ["gpu10", "full"])
def test_scales_for_a_gpu_need_one(small, prepared, sessions, tmp_path, monkeypatch, scale):
    monkeypatch.setitem(SCALES, scale, small)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=f"--scale {scale} needs a CUDA device, and torch sees none"):
        bench_reference(BenchReference(scale=scale, out=tmp_path / "out"))
    assert bench_reference(BenchReference(scale=scale, out=tmp_path / "out", dry_run=True)) == 0


def test_tiny_imagenet_is_optional_on_a_gpu(tmp_path):
    names = {each.name for each in BenchReference(scale="gpu10", out=tmp_path).chosen}
    all_names = {each.name for each in BenchReference(scale="gpu10", out=tmp_path, tiny_imagenet=tmp_path).chosen}
    assert all_names - names == {"vit-small-tiny-imagenet", "vit-small-finetuned", "vit-small-short"}


@pytest.mark.parametrize(("exit_code", "end"), [(0, Stop("the time is up", 0)), (75, Stop("a signal came", 75))])
def test_a_stop_says_how_to_continue(small, prepared, sessions, tmp_path, monkeypatch, capsys, exit_code, end):
    sessions.ends = end
    assert run(monkeypatch, "--out", tmp_path / "out", "--minutes", "5") == exit_code
    again = f"continue with: fastvit-bench reference --scale cpu --out {tmp_path}/out --minutes 5"
    assert capsys.readouterr().err.endswith(f"\n{end.reason}; {again}\n")
    assert sessions.deadline < float("inf")


def test_so_does_ctrl_c(small, prepared, sessions, tmp_path, monkeypatch, capsys):
    sessions.ends = KeyboardInterrupt()
    assert run(monkeypatch, "--out", tmp_path / "out") == 130
    again = f"continue with: fastvit-bench reference --scale cpu --out {tmp_path}/out"
    assert capsys.readouterr().err.endswith(f"fastvit-bench: interrupted; {again}\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0.0}, "minutes must be positive, got 0"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^63\), got -1"),
        ({"gpu": "NVIDIA H200"}, "gpu is for the scales gpu10 and full, got NVIDIA H200 with --scale cpu"),
        ({"experiments": ("nope",)}, "unknown experiment 'nope'; choose from: inference, resnet-fast-10, "),
    ],
)
def test_options_that_cannot_be_used(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        BenchReference(scale="cpu", out=tmp_path, **options)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_whole_one(tmp_path, make_set, monkeypatch, capsys):
    make_set("cifar10_train.beton", 400)
    make_set("cifar10_test.beton", 60, seed=1)
    options = ("--preset", "cifar10-quick", "--epochs", "1", "--batch-size", "20")
    found = (
        experiment("first", options=options, reference="resnet-fast-cifar10"),
        experiment("tuned", options=options, data="cifar10-10", fraction=0.1, starts_from="first"),
    )
    monkeypatch.setitem(SCALES, "cpu", found)
    arguments = ("--out", tmp_path / "out", "--cifar10", tmp_path, "--experiments", "first,tuned")
    assert run(monkeypatch, *arguments) == 0
    rows = {row["experiment"]: row for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert {name: row["num_train_images"] for name, row in rows.items()} == {"first": 400, "tuned": 40}
    assert min(row["top1"] for row in rows.values()) > 0.5  # the colours tell the classes
    for name in ("report.html", "report.md", "first/log.txt", "first/best.pt", "data/cifar10-10.beton"):
        assert (tmp_path / "out" / name).is_file()
    assert "the tuned" in (tmp_path / "out" / "report.md").read_text()
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 0
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before
    assert "0 of 2 experiments are left: nothing to train" in capsys.readouterr().out
