"""Runs compute in what the device multiplies, unless they are told otherwise; freed memory stays with the process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastvit_train import device
from fastvit_train.config import Config

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the processor's features are read from /proc/cpuinfo")
def test_the_processors_features_decide():
    features = set(Path("/proc/cpuinfo").read_text().split())
    assert device.has_bf16_matmul(CPU) == bool({"avx512_bf16", "amx_tile"} & features)


@pytest.mark.parametrize("has_matmul", [True, False])
def test_auto_takes_bf16_where_it_is_fast(monkeypatch, has_matmul):
    monkeypatch.setattr(device, "has_bf16_matmul", lambda _: has_matmul)
    chosen = {name: device.computes_in_bf16(Config(precision=name), CPU) for name in ("auto", "bf16", "fp32")}
    assert chosen == {"auto": has_matmul, "bf16": True, "fp32": False}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_the_second_tensor_takes_the_first_ones_pages():
    script = """
import resource, torch
from fastvit_train.device import keep_freed_memory
for keep in (False, True):
    if keep:
        keep_freed_memory()
    torch.ones(2**26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (2**25, 2**24, 2**23):
        torch.ones(size)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    given_back, kept = map(int, subprocess.check_output([sys.executable, "-c", script]).split())
    assert kept < 100
    assert given_back > 10 * max(kept, 1)
