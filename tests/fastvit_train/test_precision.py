"""Runs compute in what the device multiplies, unless they are told otherwise."""

import sys
from pathlib import Path

import pytest
import torch

from fastvit_train import precision
from fastvit_train.config import Config

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the processor's features are read from /proc/cpuinfo")
def test_the_processors_features_decide():
    features = set(Path("/proc/cpuinfo").read_text().split())
    assert precision.has_bf16_products(CPU) == bool({"avx512_bf16", "amx_tile"} & features)


@pytest.mark.parametrize("has_products", [True, False])
def test_auto_takes_bf16_where_it_is_fast(monkeypatch, has_products):
    monkeypatch.setattr(precision, "has_bf16_products", lambda device: has_products)
    chosen = {name: precision.computes_in_bf16(Config(precision=name), CPU) for name in ("auto", "bf16", "fp32")}
    assert chosen == {"auto": has_products, "bf16": True, "fp32": False}
