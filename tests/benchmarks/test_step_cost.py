"""What a step costs: overlapping kernels count once, and waits of the host are found by their line."""

import warnings

import pytest
import torch

from benchmarks.step_cost import _cost_of, device_cost, host_milliseconds, synchronisations
from fastvit_train.metrics import Totals


def test_a_device_is_busy_while_any_kernel_runs():
    kernels = [("matmul", 0, 4000), ("copy", 3000, 5000), ("inside", 3500, 3600), ("matmul", 9000, 10_000)]
    cost = _cost_of(kernels, 2)
    assert cost.busy_milliseconds == 3  # of 5 + 1 in two steps
    assert cost.num_kernels == 2
    assert cost.longest == [("matmul", 2.5, 1), ("copy", 1, 0.5), ("inside", 0.05, 0.5)]


def test_no_kernels_cost_nothing():
    assert _cost_of([], 3).busy_milliseconds == 0


def test_waits_of_the_host_are_told_by_our_line(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    totals = Totals(torch.device("cpu"))

    def step(*_):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        return torch.zeros(())

    monkeypatch.setattr(torch, "full_like", step)
    seen = synchronisations(lambda: totals.add(torch.zeros(()), torch.zeros(2, 3), torch.zeros(2).long()), num_steps=3)
    ((where, number),) = seen.items()
    assert where.startswith("metrics.py:")
    assert number == 3
    assert modes == ["warn", "default"]


@pytest.mark.gpu
def test_costs_of_a_matmul_on_the_device():
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    matrix @ matrix  # chooses its kernel
    cost = device_cost(lambda: matrix @ matrix)
    assert cost.num_kernels >= 1
    assert 0.01 < cost.busy_milliseconds < 50
    assert host_milliseconds(lambda: matrix @ matrix) < 50
    assert synchronisations(lambda: matrix @ matrix) == {}
    assert sum(synchronisations(lambda: matrix[0, 0].item()).values()) == 4
