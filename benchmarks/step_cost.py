"""What a step costs the host and the device: time to queue it, time of its kernels, moments at which the host waits."""

import statistics
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._C._autograd import DeviceType  # it has no public path
from torch.profiler import ProfilerActivity, profile

__all__ = ["DeviceCost", "device_cost", "host_milliseconds", "synchronisations"]

_OURS = ("fastvit_train", "loaders")
_MOST_KERNELS = 12
_NAME_LENGTH = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceCost:
    """The kernels of some steps."""

    busy_milliseconds: float
    """Time of a step in which at least one kernel runs."""
    num_kernels: float
    """Kernels of a step."""
    longest: list[tuple[str, float, float]]
    """The kernels that take most: name, milliseconds and number in a step."""


def host_milliseconds(queue_step: Callable[[], object], *, repeats: int = 5) -> float:
    """The median time that the host takes for a step of a CUDA device that has nothing else to do."""
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        queue_step()
        seconds.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return 1e3 * statistics.median(seconds)


def device_cost(queue_step: Callable[[], object], *, num_steps: int = 3) -> DeviceCost:
    """The kernels of a CUDA device in a step, as torch's profiler sees them; copies are not kernels."""
    torch.cuda.synchronize()
    # acc_events: without it torch 2.11 warns that events of earlier cycles are lost, of which there are none.
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(num_steps):
            queue_step()
        torch.cuda.synchronize()
    kernels = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events() or []
        if event.device_type == DeviceType.CUDA
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset"))
    ]
    return _cost_of(kernels, num_steps)


def _cost_of(kernels: list[tuple[str, float, float]], num_steps: int) -> DeviceCost:
    """Sums over kernels, given as name, start and end in microseconds."""
    busy, covered = 0.0, float("-inf")
    times: defaultdict[str, float] = defaultdict(float)
    for name, start, end in sorted(kernels, key=lambda kernel: kernel[1]):
        busy += max(0.0, end - max(start, covered))
        covered = max(covered, end)
        times[name] += end - start
    numbers = Counter(name for name, _, _ in kernels)
    return DeviceCost(
        busy_milliseconds=busy / 1e3 / num_steps,
        num_kernels=len(kernels) / num_steps,
        longest=[
            (name[:_NAME_LENGTH], time / 1e3 / num_steps, numbers[name] / num_steps)
            for name, time in sorted(times.items(), key=lambda item: -item[1])[:_MOST_KERNELS]
        ],
    )


def synchronisations(queue_step: Callable[[], object], *, num_steps: int = 4) -> dict[str, int]:
    """Where in some steps the host waits for a CUDA device, and how often: our file and line, the innermost first."""
    seen: Counter[str] = Counter()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "called a synchronizing" in str(message):  # not that the mode is a prototype
            seen[_our_lines()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(num_steps):
                queue_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return dict(seen)


def _our_lines() -> str:
    # A wheel has this file among ours.
    others = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    frames = [frame for frame in others if set(_OURS) & set(Path(frame.filename).parts)]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-2:])) or "elsewhere"
