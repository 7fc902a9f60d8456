"""A `fastvit-train` and a `fastvit-bench` that end at once, or as a file says, and leave what the real ones leave."""

import json
import os
import textwrap
from pathlib import Path

import pytest

from benchmarks.reference.data_sets import DataSet
from benchmarks.reference.experiments import Experiment
from benchmarks.reference.runs import PROGRAMS, plan_run
from fastvit_train.config_json import to_dict

_PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

HERE = Path(__file__).parent

def main():
    arguments = sys.argv[1:]
    print("started", *arguments, flush=True)
    with (HERE / "started.txt").open("a") as file:
        file.write(" ".join([Path(sys.argv[0]).name, *arguments]) + "\\n")
    return infer(arguments) if arguments[0] == "inference" else train(Path(arguments[arguments.index("--out") + 1]))

def infer(arguments):
    *folders, _, out = arguments[1:]
    with open(out, "a") as file:
        for folder in folders:
            file.write(json.dumps({"benchmark": "inference", "run": Path(folder).name}) + "\\n")
    return how("inference")

def train(out):
    out.mkdir(exist_ok=True)
    config = json.loads((HERE / f"{out.name}.json").read_text())
    (out / "config.json").write_text(json.dumps(config))
    if code := how(out.name):
        return code
    line = {"kind": "train", "step": 4, "epoch": 0, "accuracy": 0.5}
    (out / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
    (out / "best.pt").touch()
    (out / "result.json").write_text((HERE / "result.json").read_text())
    return 0

def how(name):
    path = HERE / f"{name}.end"
    end = path.read_text() if path.exists() else "0"
    if end != "wait":
        return int(end)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(75))
    signal.signal(signal.SIGINT, lambda *_: stopped.append(130))
    print("waiting", flush=True)
    end = time.monotonic() + 60  # not longer than the test that asks it
    while not stopped and time.monotonic() < end:
        time.sleep(0.01)
    (HERE / "stopped_by.txt").write_text(str(stopped))
    path.unlink()  # the next time it ends well
    return stopped[0]
"""

RESULT = {
    "top1": 0.5,
    "top1_averaged": None,
    "num_parameters": 100,
    "train_seconds": 30.0,
    "eval_seconds": 6.0,
    "images_per_second": 10.0,
    "device": "a CPU",
    "world_size": 2,
    "commit": "abc",
    "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.14.1", "fastvit": None},
    "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 2**34, "gpu": None},
}


class Programs:
    """The programs that are started instead of the real ones."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder = folder
        self.out = out
        (folder / "fake_program.py").write_text(textwrap.dedent(_PROGRAM))
        (folder / "result.json").write_text(json.dumps(RESULT))

    def planned(self, *experiments, seed=0):
        """The runs of experiments, of which the program knows what their config would be."""
        data_set = DataSet(Path("train.beton"), Path("val.beton"), 500, 100, 10)
        runs = [plan_run(each, data_set, out=self.out, seed=seed) for each in experiments]
        for run in runs:
            (self.folder / f"{run.folder.name}.json").write_text(json.dumps(to_dict(run.config)))
        return runs

    def end(self, name, how):
        """How the program of this name ends the next times: with an exit code, or only when it is asked to, once."""
        (self.folder / f"{name}.end").write_text(str(how))

    @property
    def started(self):
        """The command lines so far."""
        path = self.folder / "started.txt"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def started_runs(self):
        """The names of the runs and benchmarks so far."""
        return [line.split("/")[-1].split()[0] if "inference" not in line else "inference" for line in self.started]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    folder = tmp_path / "programs"
    folder.mkdir()
    fakes = Programs(folder, tmp_path / "out")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    for name in PROGRAMS:
        monkeypatch.setitem(PROGRAMS, name, "fake_program")
    return fakes


@pytest.fixture
def make_experiment():
    """An experiment that trains a small network, by its name."""

    def make(name, **changed):
        options = {
            "title": f"the {name}",
            "part": "table",
            "options": ("--preset", "cifar10-quick", "--epochs", "6"),
            "data": "cifar10",
            "family": "ResNet",
        }
        return Experiment(name=name, **(options | changed))

    return make
