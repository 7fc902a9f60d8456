"""What the machine is, from what the kernel says of it."""

import os

import psutil
import pytest

from benchmarks.doctor.facts import machine_facts, memory_for_cache
from loaders.cpus import usable_cpus


def test_of_this_machine():
    facts = machine_facts()
    assert facts["cores"] == usable_cpus()
    assert facts["affinity"] == len(os.sched_getaffinity(0))
    assert 1 <= facts["physical_cores"] <= facts["affinity"]
    assert facts["simd"] in ("avx512", "avx2", "neon", "scalar")
    assert 0 < facts["cache_bytes"] <= facts["memory_bytes"]


@pytest.fixture
def four_cpus(tmp_path, monkeypatch):
    """A machine of four CPUs, two on each core, whose container has half of their time and 1 GB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for cpu in range(4):
        file = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("200000 100000\n")
    (group / "memory.max").write_text("1000000000\n")
    return tmp_path


def test_smt_and_a_container(four_cpus):
    facts = machine_facts(root=four_cpus)
    assert (facts["affinity"], facts["physical_cores"], facts["smt"]) == (4, 2, True)
    assert (facts["cgroup_quota"], facts["cores"]) == (2.0, 2)
    assert facts["cache_bytes"] == min(10**9, facts["cache_bytes"])


def test_memory_without_a_limit(four_cpus):
    (four_cpus / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert memory_for_cache(root=four_cpus) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
