"""CPUs as a container limits them: cgroups of both versions in folders of the tests, affinity, ranks."""

import os
from pathlib import Path

import pytest

from loaders.cpus import automatic_workers, cpu_quota, num_threads, usable_cpus


@pytest.fixture(autouse=True)
def _sixteen_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def cpus(root: Path, cgroup: str, **files: str) -> int:
    """`usable_cpus` of a process in these groups; a file's name has "__" for each "/"."""
    files["proc__self__cgroup"] = cgroup
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return usable_cpus(root=root)


def limit(group: str, text: str) -> dict[str, str]:
    """The limit of a group of version 2."""
    return {f"sys__fs__cgroup__{group}cpu.max": text}


def old_limit(group: str, quota: int, *, mounted: str = "cpu,cpuacct") -> dict[str, str]:
    """The limit of a group of version 1, in periods of 0.1 s."""
    folder = f"sys__fs__cgroup__{mounted}__{group}"
    return {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}


def test_without_cgroups_the_affinity_counts(tmp_path):
    assert usable_cpus(root=tmp_path) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 2), ("25000 100000", 1), ("6400000 100000", 16)],
)
def test_quota_of_version_2(tmp_path, text, expected):
    assert cpus(tmp_path, "0::/\n", **limit("", text)) == expected


def test_the_quota_itself_is_not_rounded(tmp_path):
    cpus(tmp_path, "0::/\n", **limit("", "150000 100000"))
    assert cpu_quota(root=tmp_path) == 1.5
    cpus(tmp_path, "0::/\n", **limit("", "max 100000"))
    assert cpu_quota(root=tmp_path) is None


def test_groups_above_limit_as_well(tmp_path):
    files = limit("a__", "300000 100000") | limit("a__b__", "800000 100000") | limit("a__b__c__", "max 100000")
    assert cpus(tmp_path, "0::/a/b/c\n", **files) == 3


def test_in_a_container_the_file_system_begins_at_its_own_group(tmp_path):
    assert cpus(tmp_path, "0::/kubepods/pod1/container1\n", **limit("", "350000 100000")) == 4


@pytest.mark.parametrize(
    ("quota", "expected"), [(-1, 16), (200000, 2), (250000, 3), (50000, 1)], ids=["none", "two", "fraction", "half"]
)
@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
def test_quota_of_version_1(tmp_path, quota, expected, mounted):
    cgroup = "12:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n"
    assert cpus(tmp_path, cgroup, **old_limit("docker__1__", quota, mounted=mounted)) == expected


def test_version_1_in_a_container_and_nested(tmp_path):
    cgroup = "4:cpu,cpuacct:/docker/1/job\n0::/\n"
    files = old_limit("", 500000) | old_limit("docker__1__", 300000) | old_limit("docker__1__job__", -1)
    assert cpus(tmp_path, cgroup, **files) == 3
    assert cpus(tmp_path / "container", cgroup, **old_limit("", 500000)) == 5


def test_other_controllers_do_not_count(tmp_path):
    assert cpus(tmp_path, "3:cpuset:/\n2:cpuacct:/\n", **old_limit("", 100000, mounted="cpuacct")) == 16


@pytest.mark.parametrize(("ranks", "expected"), [("1", 6), ("2", 3), ("4", 1), ("8", 1)])
def test_the_ranks_of_a_machine_share_its_cpus(tmp_path, monkeypatch, ranks, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert cpus(tmp_path, "0::/\n", **limit("", "600000 100000")) == 6
    assert automatic_workers(root=tmp_path) == expected


def test_threads_are_automatic_when_not_given(monkeypatch):
    monkeypatch.setattr("loaders.cpus.usable_cpus", lambda *, root: 5)
    assert num_threads(None) == 5
    assert num_threads(2) == 2
    with pytest.raises(ValueError, match="num_workers 0 is for the torch backend alone; leave it out for one per CPU"):
        num_threads(0)
