"""What `fastvit-bench inference` measures on a card, rehearsed on a pretended CUDA device."""

import pytest
import torch

from benchmarks.inference.models import Source
from benchmarks.inference.serving import Case, Serving
from fake_cuda.device import DEVICE


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["vit_small_cifar@32", "resnet_fast_cifar@32", "resnet50_cifar@32"])
def test_a_model_classifies_on_the_device(name, precision):
    subject = Serving(Source(name), Case(2, precision, "eager"), device=DEVICE, threads=1, seconds=1e-6)
    subject.warm_up()
    assert subject.round() == 2 * len(subject.measured().latencies)
    logits = subject.logits()
    assert logits.is_cuda
    assert logits.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
