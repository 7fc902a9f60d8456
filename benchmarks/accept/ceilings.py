"""Stage `ceilings`: what the device reaches with nothing but a matmul, a copy, a launch, a transfer."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.accept.setting import Setting
from benchmarks.row_files import Row

__all__ = ["ceilings"]

_LAUNCHES = 500  # fewer than the queue of a CUDA device takes before the host has to wait


def ceilings(setting: Setting) -> Iterator[Row]:
    """A row for each: `value` in `unit`, the median of some rounds."""
    on_cuda = setting.on_cuda
    side, num_bytes = (8192, 2**31) if on_cuda else (512, 2**24)
    yield _row("matmul", "TFLOP/s", _matmul_rates(setting, side), shape=f"{side} x {side} x {side}")
    yield _row("copy on the device", "TB/s", _copy_rates(setting, num_bytes), bytes=2 * num_bytes)
    yield _row("launch", "us", _launch_times(setting), launches=_LAUNCHES)
    if on_cuda:
        yield _row(
            "pinned memory to the device", "GB/s", _transfer_rates(setting, num_bytes // 8), bytes=num_bytes // 8
        )
    yield _row("start of Python", "s", [_start_seconds(setting)])


def _row(what: str, unit: str, rounds: list[float], **about: object) -> Row:
    return {"what": what, "unit": unit, "value": statistics.median(rounds), "rounds": rounds, **about}


def _matmul_rates(setting: Setting, side: int) -> list[float]:
    """bf16 on CUDA, float32 on the CPU, which may have no bf16."""
    dtype = torch.bfloat16 if setting.on_cuda else torch.float32
    left, right = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in range(2))
    result = torch.empty_like(left)
    return [2 * side**3 / seconds / 1e12 for seconds in _seconds(setting, lambda: torch.mm(left, right, out=result))]


def _copy_rates(setting: Setting, num_bytes: int) -> list[float]:
    """Bytes read and written."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return [2 * num_bytes / seconds / 1e12 for seconds in _seconds(setting, lambda: target.copy_(source))]


def _transfer_rates(setting: Setting, num_bytes: int) -> list[float]:
    source = torch.ones(num_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(num_bytes, dtype=torch.uint8, device=setting.device)
    return [num_bytes / seconds / 1e9 for seconds in _seconds(setting, lambda: target.copy_(source, non_blocking=True))]


def _launch_times(setting: Setting) -> list[float]:
    """What the host takes to queue an operation on a tensor of one element, in microseconds."""
    tensor = torch.zeros(1, device=setting.device)
    rounds = []
    for _ in range(5):
        _wait(setting)
        start = time.perf_counter()
        for _ in range(_LAUNCHES):
            tensor.add_(1)
        rounds.append(1e6 * (time.perf_counter() - start) / _LAUNCHES)
    return rounds


def _seconds(setting: Setting, work: Callable[[], object], *, num_rounds: int = 10) -> list[float]:
    rounds = []
    for number in range(num_rounds + 3):
        _wait(setting)
        start = time.perf_counter()
        work()
        _wait(setting)
        if number >= 3:  # those before it warm up
            rounds.append(time.perf_counter() - start)
    return rounds


def _wait(setting: Setting) -> None:
    if setting.on_cuda:
        torch.cuda.synchronize()


def _start_seconds(setting: Setting) -> float:
    """What a new process needs before it can build a model: Python, the imports, and the device."""
    code = f"import torch, fastvit_train.train; torch.zeros(1, device={setting.device!r})"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    return time.perf_counter() - start
