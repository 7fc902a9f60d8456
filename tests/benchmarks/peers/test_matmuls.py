"""Matmuls are recorded from a piece of work and done again with the same shapes, strides and types."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.matmuls import record_matmuls


def count_flops(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_forward_and_backward_matmuls_of_all_kinds_are_done_again():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(2), torch.nn.Linear(36, 5))
    images = torch.randn(2, 3, 8, 8)

    def work():
        features = model(images)
        (features @ features.transpose(1, 2)).sum().backward()

    repeat = record_matmuls(work)
    model.zero_grad()
    assert count_flops(repeat) == count_flops(work)
    assert count_flops(repeat) > 2 * count_flops(lambda: model(images)), "the backward pass is in it"


def test_operands_look_as_they_did(monkeypatch):
    left, right = torch.randn(6, 4).bfloat16().t(), torch.randn(6, 10).bfloat16()[:, ::2]
    repeat = record_matmuls(lambda: left @ right)
    seen = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.extend(args)
            return func(*args, **(kwargs or {}))

    with Spy():
        repeat()
    for operand, original in zip(seen, (left, right), strict=True):
        assert operand.shape == original.shape
        assert operand.stride() == original.stride()
        assert operand.dtype == torch.bfloat16
        assert operand.std() > 0


def test_work_without_matmuls_repeats_nothing():
    assert count_flops(record_matmuls(lambda: torch.ones(3) + 1)) == 0
