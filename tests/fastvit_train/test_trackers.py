"""Metrics reach the trackers, a resumed run continues there, and no tracker can end training."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from fastvit_train import trackers
from fastvit_train.config import Config
from fastvit_train.metrics import read_metrics
from fastvit_train.train import train
from loaders.errors import FastvitError, MissingPackageError

pytestmark = pytest.mark.filterwarnings("default")  # of the packages

STEPS = [2, 4, 6, 8, 10, 12]


def train_in_two_parts(config: Config) -> list[float]:
    """Stop at step 8 and resume; returns the losses of the log lines."""
    train(replace(config, max_steps=8))
    checkpoint = config.out / "checkpoint.pt"
    saved = checkpoint.read_bytes()
    train(replace(config, resume="auto"))
    assert checkpoint.read_bytes() != saved
    lines = [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == STEPS
    return [line["loss"] for line in lines]


def test_tensorboard(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = train_in_two_parts(replace(config, trackers=("tensorboard",)))
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in zip(STEPS, losses, strict=True)]
    assert [event.step for event in events.Scalars("eval/top1")] == [4, 8, 12]
    assert "train/images_per_second" in events.Tags()["scalars"]
    assert b'"arch"' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_drops_what_an_interrupted_run_wrote_after_its_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last, resumed_at in ((1, 9, 0), (5, 12, 4)):
        tracker = trackers._TRACKERS["tensorboard"](Config(), tmp_path, step=resumed_at, run_id=None)
        for step in range(first, last):
            tracker.log(step, {"train/loss": float(first)})
        tracker.finish(failed=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        *((step, 1.0) for step in range(1, 5)),
        *((step, 5.0) for step in range(5, 12)),
    ]


@pytest.mark.slow
def test_mlflow(config, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{config.out.with_name('mlflow.db')}")
    losses = train_in_two_parts(replace(config, trackers=("mlflow",)))
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("fastvit").experiment_id])
    found = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert found == list(zip(STEPS, losses, strict=True))
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.003"


@pytest.mark.slow
def test_wandb_offline(config, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_in_two_parts(replace(config, trackers=("wandb",)))
    run_id = json.loads((config.out / "trackers.json").read_text())["wandb"]
    files = sorted((config.out / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2, "both parts are one run"
    assert b"train/loss" in files[1].read_bytes()


class FakeTracker:
    """A tracker that keeps what it is given."""

    made: list["FakeTracker"]

    def __init__(self, config, folder, *, step, run_id):
        self.start = (step, run_id)
        self.run_id = run_id or f"id{len(self.made)}"
        self.lines = []
        self.ended = None
        self.made.append(self)

    def log(self, step, figures):
        self.lines.append((step, figures))

    def finish(self, *, failed):
        self.ended = "failed" if failed else "finished"


@pytest.fixture
def made(monkeypatch) -> list[FakeTracker]:
    """The trackers that runs have made, in place of W&B's."""
    monkeypatch.setattr(FakeTracker, "made", [], raising=False)
    monkeypatch.setitem(trackers._TRACKERS, "wandb", FakeTracker)
    monkeypatch.setattr("fastvit_train.train.require_trackers", lambda names: None)
    return FakeTracker.made


def test_a_run_sends_what_it_logs_and_continues_under_its_id(config, made):
    losses = train_in_two_parts(replace(config, trackers=("wandb",)))
    first, second = made
    assert (first.start, second.start) == ((0, None), (8, "id0"))
    sent = [(step, figures["train/loss"]) for step, figures in first.lines + second.lines if "train/loss" in figures]
    assert sent == list(zip(STEPS, losses, strict=True))
    assert [step for step, figures in first.lines + second.lines if "eval/top1" in figures] == [4, 8, 12]
    assert all(value is not None for _, figures in first.lines for value in figures.values())
    assert (first.ended, second.ended) == ("finished", "finished")


def test_a_run_that_starts_again_does_not_continue_another(config, made):
    for _ in range(2):
        train(replace(config, trackers=("wandb",), max_steps=2, out=config.out))
        (config.out / "checkpoint.pt").unlink()
    assert [tracker.start for tracker in made] == [(0, None)] * 2


def test_a_run_that_ends_in_an_error_says_so(config, made, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvit_train.train.evaluate_if_due", fail)
    with pytest.raises(KeyboardInterrupt):
        train(replace(config, trackers=("wandb",)))
    assert made[0].ended == "failed"
    assert [step for step, _ in made[0].lines] == [2, 4]


def test_a_tracker_that_fails_does_not_end_training(config, made, monkeypatch, capsys):
    def lose(self, step, figures):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(FakeTracker, "log", lose)
    assert train(replace(config, trackers=("wandb",)))["steps"] == 12
    warning = "the tracker wandb failed and gets no more metrics: no route to host; metrics.jsonl has all"
    assert capsys.readouterr().out.count(warning) == 1


def test_a_tracker_that_hangs_does_not_hold_training_up(config, made, monkeypatch, capsys):
    import threading

    forever = threading.Event()
    monkeypatch.setattr(FakeTracker, "log", lambda self, step, figures: forever.wait(30))
    monkeypatch.setattr(trackers, "_FINISH_SECONDS", 0.1)
    assert train(replace(config, trackers=("wandb",)))["steps"] == 12
    assert "the trackers wandb still had metrics to send" in capsys.readouterr().out
    forever.set()


def test_a_tracker_that_cannot_start_ends_the_run_before_training(config, made, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no API key")

    monkeypatch.setitem(trackers._TRACKERS, "wandb", refuse)
    with pytest.raises(FastvitError, match="the tracker wandb cannot start: no API key; fix that, or leave it out"):
        train(replace(config, trackers=("wandb",)))
    assert not (config.out / "metrics.jsonl").read_text()


def test_a_missing_package_is_named_before_anything_starts(config, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    find: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(MissingPackageError, match=r"the tracker wandb needs the package wandb; .*pip install wandb"):
        train(replace(config, trackers=("wandb",)))
    assert not config.out.exists()


def test_the_folder_that_wandb_leaves_is_not_its_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(MissingPackageError, match="pip install wandb"):
        trackers.require_trackers(["wandb"])
