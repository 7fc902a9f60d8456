"""How many CPUs this process may use, and how many threads or processes load when nobody says a number."""

import os
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path, PurePosixPath

from loaders.errors import FastvitError

__all__ = ["automatic_workers", "cpu_quota", "num_threads", "usable_cpus"]

_CGROUPS = Path("sys/fs/cgroup")


def usable_cpus(*, root: Path = Path("/")) -> int:
    """The CPUs that this process may use: those of its affinity, or fewer where a container has a share of the time.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        The smallest of the affinity and the CPU quotas of the process's cgroups (version 1 or 2, and all groups above
        them), which are rounded up; at least 1.

    Examples:
        >>> from loaders.cpus import usable_cpus
        >>> usable_cpus() >= 1
        True
    """
    num_cpus, quota = len(os.sched_getaffinity(0)), cpu_quota(root=root)
    return num_cpus if quota is None else min(num_cpus, ceil(quota))


def cpu_quota(*, root: Path = Path("/")) -> float | None:
    """The CPUs' time that this process's container gives it, in CPUs; None without a limit.

    Args:
        root: Where `proc` and `sys` are.

    Examples:
        >>> from loaders.cpus import cpu_quota
        >>> (cpu_quota() or 1) > 0
        True
    """
    return min((quota for quota in _quotas(root) if quota > 0), default=None)


def automatic_workers(*, root: Path = Path("/")) -> int:
    """This process's share of `usable_cpus`, which the ranks that torchrun started on this machine divide; at least 1.

    Examples:
        >>> from loaders.cpus import automatic_workers
        >>> automatic_workers() >= 1
        True
    """
    return max(1, usable_cpus(root=root) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def num_threads(num_workers: int | None) -> int:
    """The threads of a backend that loads in threads alone.

    Args:
        num_workers: As in `LoaderConfig`: None is `automatic_workers`.

    Raises:
        FastvitError: It is 0.

    Examples:
        >>> from loaders.cpus import num_threads
        >>> num_threads(3)
        3
        >>> num_threads(0)
        Traceback (most recent call last):
        loaders.errors.FastvitError: num_workers 0 is for the torch backend alone; leave it out for one per CPU
    """
    if num_workers == 0:
        raise FastvitError("num_workers 0 is for the torch backend alone; leave it out for one per CPU")
    return num_workers or automatic_workers()


def _quotas(root: Path) -> Iterator[float]:
    """The CPUs that each cgroup of this process and each one above it may use; none for a group without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no Linux, or no cgroups
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _in_each_group(root / _CGROUPS, group, _quota_of_version_2)
        elif "cpu" in controllers.split(","):
            for mounted in {controllers, "cpu"}:  # systemd joins cpu and cpuacct, and links the names
                yield from _in_each_group(root / _CGROUPS / mounted, group, _quota_of_version_1)


def _in_each_group(mounted: Path, group: str, quota_of: Callable[[Path], float]) -> Iterator[float]:
    """The quotas of a group and of those above it."""
    # In a container the file system may begin at the process's own group: the path that the host knows is not there.
    path = PurePosixPath(group.lstrip("/"))
    for above in (path, *path.parents):
        try:
            yield quota_of(mounted / above)
        except (OSError, ValueError):
            continue


def _quota_of_version_2(group: Path) -> float:
    """Raises ValueError for "max", which is no limit."""
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _quota_of_version_1(group: Path) -> float:
    """Negative where there is no limit."""
    quota, period = (int((group / name).read_text()) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return quota / period
