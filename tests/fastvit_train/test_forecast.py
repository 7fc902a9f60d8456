"""The forecast of a run's length: right where steps take what they should, and without a trace in the run."""

import re
from dataclasses import replace

import pytest
import torch

from fastvit_train import checkpoint
from fastvit_train.config import Config
from fastvit_train.data import build_loaders
from fastvit_train.distributed import start_world
from fastvit_train.forecast import Forecast
from fastvit_train.models import MODELS
from fastvit_train.presets import expectation
from fastvit_train.run import Run, start_run
from fastvit_train.train import train
from runs import tiny_cifar_vit

pytestmark = pytest.mark.timeout(120)


def start(config: Config) -> Run:
    with start_world("cpu") as world:
        loader, _, num_classes = build_loaders(config, world)
        return start_run(config, world, config.out, loader, num_classes)


def foreseen_seconds(run: Run, capsys, *, first_step: int) -> float:
    """What a run forecasts from `first_step` on; its steps take a minute each, and four in the second half."""
    run.progress.step, run.progress.epoch = first_step, first_step // run.steps_per_epoch
    forecast = Forecast(run)
    while run.progress.step < run.last_step:
        run.progress.train_seconds += 60 if run.progress.step < run.last_step / 2 else 240
        run.progress.step += 1
        run.progress.epoch = run.progress.step // run.steps_per_epoch
        forecast.update(run)
    (minutes,) = re.findall(r"forecast +([\d.]+) min more of training", capsys.readouterr().out)
    return 60 * float(minutes)


@pytest.mark.parametrize("first_step", [0, 10, 14, 20])
def test_it_counts_what_later_phases_cost(config, capsys, first_step):
    """20 steps at 32 px, then 20 at 64, each of four times the operations: a ResNet's follow the pixels."""
    config = replace(
        config,
        arch="timm/test_resnet",
        epochs=10,
        phases=((0.5, 32, 0.0),),
        data=replace(config.data, resolution=64),
    )
    run = start(config)
    assert run.last_step == 40
    timed_to = first_step + 8
    left = 60 * max(0, 20 - timed_to) + 240 * (40 - max(20, timed_to))
    assert foreseen_seconds(run, capsys, first_step=first_step) == pytest.approx(left, rel=0.03)


def test_patches_that_are_dropped_cost_nothing(config, capsys, monkeypatch):
    """A class token stays in either half; attention, whose cost falls with the square, makes up for it."""
    monkeypatch.setitem(MODELS, "vit_small_cifar", tiny_cifar_vit)
    config = replace(config, arch="vit_small_cifar", epochs=10, phases=((0.5, 32, 0.75),))
    run = start(config)
    assert foreseen_seconds(run, capsys, first_step=0) == pytest.approx(60 * 12 + 240 * 20, rel=0.03)


def test_a_run_forecasts_once_and_bits_stay_as_they_are(config, capsys, monkeypatch):
    train(config)
    assert len(re.findall(r"forecast +\d+\.\d min .* images/s at 32 px", capsys.readouterr().out)) == 1
    silent = replace(config, out=config.out.with_name("silent"))
    monkeypatch.setattr(Forecast, "__init__", lambda *_: None)
    monkeypatch.setattr(Forecast, "is_due", lambda *_: False)
    monkeypatch.setattr(Forecast, "update", lambda *_: None)
    train(silent)
    mine, other = (checkpoint.load(folder / "checkpoint.pt")["model"] for folder in (config.out, silent.out))
    assert all(torch.equal(mine[name], other[name]) for name in other)


def test_a_run_that_ends_at_once_forecasts_nothing(config, capsys):
    train(replace(config, max_steps=8))
    assert "forecast" not in capsys.readouterr().out


def test_a_run_says_what_its_preset_expects(config, capsys):
    train(replace(config, preset="cifar10-quick", max_steps=1))
    assert f"expected    of cifar10-quick as it is: {expectation('cifar10-quick')}\n" in capsys.readouterr().out
