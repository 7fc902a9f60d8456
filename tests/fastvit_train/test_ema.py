"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from fastvit_train.ema import MovingAverage


def follow(values: list[float], half_life_steps: float) -> float:
    """The average of a weight that takes these values, one after each step."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1e6)  # as random weights at the start: they must leave no trace
    ema = MovingAverage(model, half_life_steps=half_life_steps)
    for step, value in enumerate(values, start=1):
        nn.init.constant_(model.weight, value)
        ema.set_step(step)
        ema.update(model)
    return ema.module.weight.item()


def test_at_first_it_is_the_plain_mean():
    assert follow([7], 100) == pytest.approx(7)
    assert follow([1, 2, 3, 6], 100) == pytest.approx(3)


def test_a_step_counts_half_as_much_after_the_half_life():
    assert follow([1.0] * 200 + [0.0] * 20, 20) == pytest.approx(0.5, rel=1e-4)
    assert follow([1.0] * 200 + [0.0] * 40, 20) == pytest.approx(0.25, rel=1e-4)


def test_buffers_are_averaged_too():
    model = nn.BatchNorm1d(1)
    ema = MovingAverage(model, half_life_steps=10)
    for step, mean in enumerate((2.0, 4.0), start=1):
        model.running_mean.fill_(mean)
        model.num_batches_tracked.fill_(step)
        ema.set_step(step)
        ema.update(model)
    assert ema.module.running_mean.item() == pytest.approx(3)
    assert ema.module.num_batches_tracked == 2
    assert not ema.module.training
    assert torch.equal(model.running_mean, torch.tensor([4.0]))
