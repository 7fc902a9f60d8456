"""What the machine is: cores, memory, instructions."""

import os
from pathlib import Path
from typing import Any

import psutil

from loaders import _native
from loaders.cpus import cpu_quota, usable_cpus

__all__ = ["machine_facts", "memory_for_cache"]

_SHM = Path("/dev/shm")
_CPU = Path("sys/devices/system/cpu")


def machine_facts(*, root: Path = Path("/")) -> dict[str, Any]:
    """Figures that decide how fast images load.

    Args:
        root: Where `proc` and `sys` are.
    """
    affinity = sorted(os.sched_getaffinity(0))
    physical = _physical_cores(affinity, root)
    return {
        "cores": usable_cpus(root=root),
        "physical_cores": physical,
        "affinity": len(affinity),
        "cgroup_quota": cpu_quota(root=root),
        "smt": len(affinity) > physical,
        "simd": _native.resize_instructions()[0],
        "own_huffman_decoder": _native.uses_own_huffman_decoder,
        "memory_bytes": psutil.virtual_memory().total,
        "cache_bytes": memory_for_cache(root=root),
        "shm_bytes": psutil.disk_usage(str(_SHM)).free if _SHM.is_dir() else None,
    }


def memory_for_cache(*, root: Path = Path("/")) -> int:
    """About how many bytes of files the page cache may hold: memory that is free or has files, within the container."""
    available = int(psutil.virtual_memory().available)
    group = _memory_limit(root)
    return available if group is None else min(available, group)


def _memory_limit(root: Path) -> int | None:
    """The limit of this container's memory, in which the page cache counts; None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((root / "sys/fs/cgroup" / name).read_text())
        except (OSError, ValueError):  # version 2 says "max"
            continue
    return None


def _physical_cores(cpus: list[int], root: Path) -> int:
    """How many cores these CPUs are: with SMT, two CPUs share one."""
    siblings = set()
    for cpu in cpus:
        try:
            siblings.add((root / _CPU / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)
