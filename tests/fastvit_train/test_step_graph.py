"""Steps from a graph are the steps that they were recorded from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F

from fastvit_train import checkpoint
from fastvit_train.config import AugmentConfig, Config, ModelConfig, MuonConfig, OptimConfig
from fastvit_train.metrics import read_metrics
from fastvit_train.schedule import phases_of
from fastvit_train.step_graph import StepGraph
from fastvit_train.train import train
from runs import same
from step_recorder import StepRecorder

EVERYTHING = AugmentConfig(
    flip="alternating",
    shift=2,
    policy="randaugment",
    color_jitter=0.3,
    erasing_probability=0.25,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
)


class Outcome(NamedTuple):
    """What a run leaves."""

    state: dict[str, Any]
    losses: list[tuple[int, float]]


def outcome(folder: Path) -> Outcome:
    lines = read_metrics(folder / "metrics.jsonl")
    return Outcome(checkpoint.load(folder / "checkpoint.pt"), [(line["step"], line["loss"]) for line in lines])


def assert_same(mine: Outcome, other: Outcome) -> None:
    assert mine.losses == other.losses
    assert same(mine.state["model"], other.state["model"])
    if other.state["ema"] is not None:
        assert same(mine.state["ema"], other.state["ema"])
        assert not same(mine.state["ema"], mine.state["model"])
    for part, state in zip(mine.state["optimizer"], other.state["optimizer"], strict=True):
        assert part["param_groups"] == state["param_groups"]
        for number, values in state["state"].items():
            assert all(torch.equal(value, part["state"][number][name]) for name, value in values.items())
    assert all(map(torch.equal, mine.state["random_states"][0].values(), other.state["random_states"][0].values()))


@pytest.fixture
def recorders(monkeypatch) -> list[StepRecorder]:
    """From here on, steps are recorded and replayed; the recorders of all runs."""
    made = []

    def build_step_graph(config: Config, model: Any, generator: torch.Generator, **_: Any) -> StepGraph:
        made.append(StepRecorder(torch.device("cpu"), generator))
        return StepGraph(model, made[-1], phases_of(config))

    monkeypatch.setattr("fastvit_train.run.build_step_graph", build_step_graph)
    # torch's looks at the labels, but only on the CPU.
    monkeypatch.setattr(F, "one_hot", lambda labels, num_classes: (labels[:, None] == torch.arange(num_classes)).long())
    return made


@pytest.fixture
def train_twice(config, request) -> Callable[[Config], None]:
    """Train without a graph and with one, and compare what they leave."""

    def train_twice(config: Config) -> list[StepRecorder]:
        config = replace(config, log_every_steps=1, compile="off")
        train(config)
        recorders = request.getfixturevalue("recorders")
        other = replace(config, out=config.out.with_name("graph"))
        train(other)
        assert_same(outcome(other.out), outcome(config.out))
        return recorders

    return train_twice


OPTIMIZERS = {
    "adamw": OptimConfig(lr=3e-3, clip_norm=1.0, layer_decay=0.9),
    "sgd": OptimConfig(name="sgd", lr=0.05, clip_norm=1.0),
    "plain sgd": OptimConfig(name="sgd", lr=0.05, momentum=0.0),
    "muon": OptimConfig(name="muon", lr=1e-3, clip_norm=1.0, muon=MuonConfig(weight_decay=0.01)),
    "muon with sgd": OptimConfig(name="muon", lr=0.01, muon=MuonConfig(rest="sgd", normalize=True)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_graph_takes_the_same_steps(config, train_twice, name):
    """Three epochs with everything that changes from step to step."""
    config = replace(
        config,
        ema_half_life_epochs=0.5,
        label_smoothing=0.1,
        augment=EVERYTHING,
        model=ModelConfig(drop_path=0.2),
        optim=OPTIMIZERS[name],
    )
    (recorder,) = train_twice(config)
    assert (recorder.num_warm_ups, recorder.num_recordings, recorder.num_replays) == (2, 1, 10)
