"""A GPU's busy share is the mean of the driver's samples since a time; without a driver that tells, there is none."""

import ctypes
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_load
from benchmarks.gpu_load import busy_fraction
from benchmarks.harness import _measure
from benchmarks.rows import cost_columns, costs

_UUID = "01234567-89ab-cdef"


class _Driver:
    """NVML of a machine whose GPU computed more and more: percentages by microseconds."""

    def __init__(self, samples, *, finds_device=True):
        self._samples = samples
        self._finds_device = finds_device

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):  # noqa: N802 - as NVML has it
        assert uuid == b"GPU-" + _UUID.encode()
        handle._obj.value = 77
        return 0 if self._finds_device else 6

    def nvmlDeviceGetSamples(self, handle, kind, since, value_kind, count, samples):  # noqa: N802 - as NVML has it
        assert (handle.value, kind, type(since)) == (77, 1, ctypes.c_ulonglong)
        found = [(when, percent) for when, percent in self._samples.items() if when > since.value]
        if not found:
            return 6  # NVML_ERROR_NOT_FOUND
        count._obj.value = 120 if samples is None else len(found)  # first it says how many there may be
        value_kind._obj.value = 1
        if samples is not None:
            assert len(samples) == 120
            assert ctypes.sizeof(samples[0]) == 16
            memory = (ctypes.c_char * ctypes.sizeof(samples)).from_buffer(samples)
            for number, (when, percent) in enumerate(found):
                memory[16 * number : 16 * number + 8] = when.to_bytes(8, sys.byteorder)
                memory[16 * number + 8 : 16 * number + 12] = percent.to_bytes(4, sys.byteorder)
                memory[16 * number + 12 : 16 * number + 16] = b"\xff" * 4  # what the union has besides an unsigned int
        return 0


@pytest.fixture
def card(monkeypatch):
    """A CUDA device that torch knows."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=_UUID))


@pytest.mark.usefixtures("card")
def test_the_samples_since_a_time_are_averaged(monkeypatch):
    driver = _Driver({1_000_000: 90, 2_000_000: 20, 2_500_000: 60})
    monkeypatch.setattr(gpu_load, "_nvml", lambda: driver)
    assert busy_fraction(since=1.5) == pytest.approx(0.4)
    assert busy_fraction(since=2.2) == pytest.approx(0.6)
    assert busy_fraction(since=3) is None


@pytest.mark.usefixtures("card")
def test_a_driver_that_does_not_know_the_device_tells_nothing(monkeypatch):
    monkeypatch.setattr(gpu_load, "_nvml", lambda: _Driver({2_000_000: 20}, finds_device=False))
    assert busy_fraction(since=1) is None


@pytest.mark.usefixtures("card")
def test_without_a_driver_nothing_is_told(monkeypatch):
    monkeypatch.setattr(gpu_load, "_LIBRARY", "libnone.so.1")
    gpu_load._nvml.cache_clear()
    assert busy_fraction(since=1) is None
    gpu_load._nvml.cache_clear()


@pytest.mark.gpu
def test_a_card_that_computes_is_busy():
    matrix = torch.ones(4096, 4096, device="cuda")
    start = time.time()
    while time.time() < start + 2:
        matrix @ matrix
        torch.cuda.synchronize()
    busy = busy_fraction(since=start)
    assert busy is None or 0.5 < busy <= 1  # a container may hide the driver


@pytest.mark.usefixtures("card")
def test_the_turns_of_work_on_a_card_have_its_busy_share(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**20)
    begins = []
    monkeypatch.setattr("benchmarks.harness.busy_fraction", lambda *, since: begins.append(since) or len(begins) / 10)
    before = time.time()
    turns = [_measure(lambda _: 1, None) for _ in range(3)]
    assert before <= begins[0] <= begins[1] <= time.time()
    row = costs(turns)
    assert row["device_busy_fraction"] == pytest.approx(0.2)
    assert cost_columns([row])["GPU busy"] == ["20%"]
