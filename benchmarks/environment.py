"""Where and with what a benchmark ran, for its rows."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import psutil

from benchmarks import _limit
from fastvit_train.run_folder import provenance
from loaders.cpus import usable_cpus

__all__ = ["environment"]

_CONTENDERS = ("ffcv", "kornia", "nvidia-dali-cuda130")


def environment() -> dict[str, Any]:
    """Command, commit, versions and machine."""
    values = provenance()
    values["versions"]["libjpeg-turbo"] = _limit.libjpeg_turbo_version
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    values["versions"] |= {name: importlib.metadata.version(name) for name in _CONTENDERS if name in installed}
    values["machine"] = {
        "cpu": _cpu_model(),
        "cores": usable_cpus(),
        "memory_bytes": psutil.virtual_memory().total,
    }
    return values


def _cpu_model() -> str:
    """The CPU's name, or its architecture where the system does not tell."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
