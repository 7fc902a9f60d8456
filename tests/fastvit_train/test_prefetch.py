"""How batches go to a CUDA device, on one that is only told of: in which order, and through which stream."""

import contextlib

import pytest
import torch

from fastvit_train import prefetch
from fastvit_train.prefetch import Prefetcher
from loaders import Batch


class Told:
    """A tensor, a stream and a clock in one: it writes down what is asked of it."""

    def __init__(self, calls):
        self._calls = calls

    def to(self, device, *, non_blocking):
        assert non_blocking
        self._calls.append("copy")
        return self

    def record_stream(self, stream):
        self._calls.append("record stream")

    def wait_stream(self, stream):
        self._calls.append("wait for copy")

    def synchronize(self):
        self._calls.append("synchronize copies")

    def wait_begins(self):
        self._calls.append("wait begins")

    def wait_ends(self):
        self._calls.append("wait ends")


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the device and the clock, in order."""
    calls = []

    def stream(device):
        calls.append("new stream")
        return Told(calls)

    prefetch._copy_stream.cache_clear()
    monkeypatch.setattr("torch.cuda.Stream", stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Told(calls))
    yield calls
    prefetch._copy_stream.cache_clear()


def test_the_clock_sees_the_next_batch_asked_for_and_copied(calls):
    def loader():
        for _ in range(2):
            calls.append("load")
            yield Batch(Told(calls), Told(calls), Told(calls))

    for _ in Prefetcher(loader(), torch.device("cuda"), Told(calls)):
        calls.append("step")
    load = ["load", *["copy"] * 3, "wait for copy", "wait ends", *["record stream"] * 3, "step"]
    ask = ["wait begins", "synchronize copies"]
    assert calls == ["new stream", *ask, *load, *ask, *load, *ask, "wait ends"]


def test_all_epochs_and_evaluations_share_a_stream(calls):
    """What one stream has freed, no other may use: a stream an epoch would keep the memory of many."""
    for _ in range(3):
        assert list(Prefetcher([], torch.device("cuda"), Told(calls))) == []
    assert calls.count("new stream") == 1


def test_what_a_loader_makes_on_the_device_is_in_the_order_of_the_steps(calls, monkeypatch):
    """Such a loader works in the stream that asks it, and memory that it is given back is not used before the step."""
    step, current, asked, recorded = Told(calls), [], [], []
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: current[-1] if current else step)
    monkeypatch.setattr(Told, "record_stream", lambda tensor, stream: recorded.append((tensor, stream)))

    @contextlib.contextmanager
    def within(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr("torch.cuda.stream", within)
    batches = [Batch(Told(calls), Told(calls), Told(calls)) for _ in range(2)]

    def loader():
        for batch in batches:
            asked.append(torch.cuda.current_stream(torch.device("cuda")))
            yield batch

    assert list(Prefetcher(loader(), torch.device("cuda"), Told(calls))) == batches
    assert asked == [step] * 2
    assert recorded == [(tensor, step) for batch in batches for tensor in batch]
