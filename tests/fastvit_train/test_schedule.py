"""Epoch and step arithmetic."""

import math

import pytest

from fastvit_train.config import Config, DataConfig, ModelConfig, ScheduleConfig
from fastvit_train.schedule import Phase, lr_factor, phase_of, total_steps


def factors(num_steps: int, **options) -> list[float]:
    config = ScheduleConfig(**options)
    return [lr_factor(config, step=step, num_steps=num_steps, steps_per_epoch=10) for step in range(num_steps + 1)]


def test_linear_schedule_rises_and_falls_in_lines():
    values = factors(50, decay="linear", warmup_epochs=2)
    assert values[:21] == pytest.approx([step / 20 for step in range(21)])
    assert values[20:] == pytest.approx([1 - step / 30 for step in range(31)])


def test_cosine_schedule_follows_the_formula():
    values = factors(110, decay="cosine", warmup_epochs=1, end_fraction=0.1)
    assert values[10] == 1
    assert values[60] == pytest.approx(0.55)
    assert values[35] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert values[110] == pytest.approx(0.1)


def test_start_fraction_is_the_first_step():
    assert factors(50, warmup_epochs=1, start_fraction=0.2)[:2] == pytest.approx([0.2, 0.28])


def test_warmup_longer_than_the_run_only_rises():
    values = factors(20, warmup_epochs=5)
    assert values == sorted(values)


@pytest.mark.parametrize(("epochs", "expected"), [(1, 25), (5.5, 138), (0.1, 3), (4.04, 101)])
def test_total_steps(epochs: float, expected: int):
    assert total_steps(epochs, 25) == expected


def test_without_phases_every_epoch_is_alike():
    config = Config(data=DataConfig(resolution=96), model=ModelConfig(patch_drop=0.1))
    assert {phase_of(config, epoch) for epoch in range(200)} == {Phase(96, 0.1)}


def test_a_phase_takes_the_epochs_that_start_before_its_end():
    config = Config(epochs=9, phases=((1 / 3, 16, 0.5), (0.7, 24, 0.0)), data=DataConfig(resolution=32))
    assert [phase_of(config, epoch).resolution for epoch in range(10)] == [16] * 3 + [24] * 4 + [32] * 3
    assert phase_of(config, 0) == Phase(16, 0.5)
    assert phase_of(config, 3) == Phase(24, 0.0)
    short = Config(epochs=0.5, phases=((0.5, 16, 0.0),))
    assert phase_of(short, 0).resolution == 16
