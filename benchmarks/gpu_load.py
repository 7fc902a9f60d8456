"""How busy a GPU is, as NVML has it: a C library that comes with the driver, so that no package is needed.

Source: https://docs.nvidia.com/deploy/nvml-api, `nvmlDeviceGetSamples`.
"""

import ctypes
from functools import cache

import torch

__all__ = ["busy_fraction"]

_LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
_GPU_UTILIZATION = 1  # of nvmlSamplingType_t


class _Sample(ctypes.Structure):
    """An nvmlSample_t: its value is a union of eight bytes; utilization is an unsigned int, in the first four."""

    _fields_ = (("microseconds", ctypes.c_ulonglong), ("percent", ctypes.c_uint), ("_rest", ctypes.c_uint))


def busy_fraction(*, since: float) -> float | None:
    """The share of the time in which torch's current CUDA device computed; None where the driver does not tell.

    It computes while a kernel runs, however small: the engines that only decode JPEGs or video do not count.

    Args:
        since: The beginning of that time, as `time.time()` gives it; the driver has some samples a second.
    """
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    percents = _percents(f"GPU-{uuid}", int(since * 1e6))
    return sum(percents) / len(percents) / 100 if percents else None


def _percents(uuid: str, since_microseconds: int) -> list[int]:
    library, handle = _nvml(), ctypes.c_void_p()
    if library is None or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != _SUCCESS:
        return []
    since, kind, count = ctypes.c_ulonglong(since_microseconds), ctypes.c_int(), ctypes.c_uint()
    request = (handle, _GPU_UTILIZATION, since, ctypes.byref(kind), ctypes.byref(count))
    if library.nvmlDeviceGetSamples(*request, None) != _SUCCESS:  # which only says how many it may have
        return []
    samples = (_Sample * count.value)()
    if library.nvmlDeviceGetSamples(*request, samples) != _SUCCESS:
        return []
    return [sample.percent for sample in samples[: count.value]]


@cache
def _nvml() -> ctypes.CDLL | None:
    """The library, ready for use; None where there is none."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == _SUCCESS else None
