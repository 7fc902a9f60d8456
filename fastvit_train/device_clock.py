"""Clocks for a device that works behind the host: when it has done its steps, and how long it had no data."""

import time
from typing import Protocol

import torch

__all__ = ["CudaClock", "DeviceClock", "HostClock", "device_clock"]


class DeviceClock(Protocol):
    """The time of the device that trains.

    A CUDA device works through a queue, and the host is steps ahead of it. What counts is when the device is done, and
    how long it has nothing to do because the next batch is not there; how long the host waits for the loader says
    neither.
    """

    def now(self) -> float:
        """Seconds since some moment, once the device has done all that it was given: this waits for it."""

    def wait_begins(self) -> None:
        """The steps so far are queued, and the next batch is asked for."""

    def wait_ends(self) -> None:
        """The device has been told to wait for the batch, if it still has to be copied; the next step follows."""

    def waited(self) -> float:
        """Seconds so far that the device had nothing to do between these two marks; to be read after `now`."""


class HostClock:
    """The clock of the CPU, whose work is done when the call returns."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._began = 0.0

    def now(self) -> float:
        """See `DeviceClock.now`."""
        return time.perf_counter()

    def wait_begins(self) -> None:
        """See `DeviceClock.wait_begins`."""
        self._began = time.perf_counter()

    def wait_ends(self) -> None:
        """See `DeviceClock.wait_ends`."""
        self._waited += time.perf_counter() - self._began

    def waited(self) -> float:
        """See `DeviceClock.waited`."""
        return self._waited


class CudaClock:
    """The clock of a CUDA device: marks are events in its current stream, which no step waits for.

    The first event of a pair has its time when the device is done with the steps before it, the second when the batch
    is there as well. A device that still has steps to do when the batch comes reaches both at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waited = 0.0
        self._marks: list[torch.cuda.Event] = []
        """Pairs of events that have not been read yet."""

    def now(self) -> float:
        """See `DeviceClock.now`."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def wait_begins(self) -> None:
        """See `DeviceClock.wait_begins`."""
        self._mark()

    def wait_ends(self) -> None:
        """See `DeviceClock.wait_ends`."""
        self._mark()

    def waited(self) -> float:
        """See `DeviceClock.waited`."""
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        self._waited += sum(begin.elapsed_time(end) for begin, end in pairs) / 1000
        self._marks.clear()
        return self._waited

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)


def device_clock(device: torch.device) -> DeviceClock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()
