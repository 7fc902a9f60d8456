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


@pytest.mark.parametrize(
    ("kind", "has_matmul", "automatic"),
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
    ],
)
def test_auto_takes_bf16_where_it_is_fast_and_else_what_the_device_is_good_at(monkeypatch, kind, has_matmul, automatic):
    monkeypatch.setattr(device, "has_bf16_matmul", lambda _: has_matmul)
    names = ("auto", "bf16", "fp16", "fp32", "fp8")
    chosen = {name: device.dtype_of(Config(precision=name), torch.device(kind)) for name in names}
    assert chosen == {
        "auto": automatic,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "fp32": torch.float32,
        "fp8": torch.bfloat16,
    }


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_cudnn_times_its_convolutions_on_cuda(monkeypatch, kind):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    device.choose_fast_kernels(torch.device(kind))
    assert torch.backends.cudnn.benchmark == (kind == "cuda")


def test_cudnn_times_nothing_where_every_run_is_to_have_the_same_bits(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    device.choose_fast_kernels(torch.device("cuda"))
    assert not torch.backends.cudnn.benchmark


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


def test_a_peak_that_is_forgotten_does_not_count():
    script = """
from fastvit_train.device import forget_peak_rss, peak_rss_bytes
memory = bytearray(200 << 20)
before = peak_rss_bytes()
del memory
forget_peak_rss()
print(before - peak_rss_bytes())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150 << 20
