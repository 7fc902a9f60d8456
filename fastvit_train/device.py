"""The device: its name, what it computes in, and how its memory is kept."""

import ctypes
import platform
from contextlib import suppress
from pathlib import Path

import torch

from fastvit_train.config import Config

__all__ = [
    "DTYPES",
    "choose_fast_kernels",
    "cpu_name",
    "device_name",
    "dtype_of",
    "forget_peak_rss",
    "has_bf16_matmul",
    "keep_freed_memory",
    "peak_memory",
    "peak_rss_bytes",
]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.bfloat16}
"""What autocast goes to, by the names of `Config.precision`; float8 is for some matmuls alone."""

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def device_name(device: torch.device) -> str:
    """The device as people know it."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """The CPU's model, or its architecture where the system does not tell."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most memory that this process has had so far: tensors on a CUDA device, or all of it on the CPU."""
    if device.type == "cuda":
        return {"peak_device_memory_bytes": torch.cuda.max_memory_allocated(device)}
    return {"peak_rss_bytes": peak_rss_bytes()}


def peak_rss_bytes(pid: int | str = "self") -> int:
    """The largest resident memory of a process so far, as the kernel has it.

    Raises:
        OSError: There is no such process.
    """
    # Not resource.getrusage: a new process begins there with what its parent had.
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0  # a process that has ended and waits for its parent


def forget_peak_rss() -> None:
    """Have `peak_rss_bytes` of this process begin again at what it has now, where the kernel can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak alone


def dtype_of(config: Config, device: torch.device) -> torch.dtype:
    """What a run computes in: where that is not float32, autocast goes to it."""
    if config.precision != "auto":
        return DTYPES[config.precision]
    if has_bf16_matmul(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def choose_fast_kernels(device: torch.device) -> None:
    """Let float32 matmuls take TF32 where there is such a thing, and cuDNN time its convolutions.

    cuDNN then tries its algorithms at the first batch of each shape and keeps the fastest, instead of guessing. A run
    has few shapes: one for each phase, one for evaluation and one for its last batch. With
    `torch.use_deterministic_algorithms` it guesses: two processes may find different algorithms the fastest.
    """
    torch.set_float32_matmul_precision("high")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()


def has_bf16_matmul(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware; elsewhere that takes up to a hundred times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_tile"))


def keep_freed_memory() -> None:
    """Have glibc keep what a tensor frees for the next one; elsewhere this does nothing.

    By default every large tensor is mapped from the kernel and given back when it is freed, so that each operation
    pays for the page faults of its result again: some 90,000 of them in a step of the preset `cifar10-quick`, which
    takes 1.17 times as long. The process holds on to the most memory that it ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)
