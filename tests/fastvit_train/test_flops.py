"""Operations are counted exactly, and without a trace; utilisation is a share of a maker's figure."""

import pytest
import timm
import torch

from fastvit_train.flops import flops_per_image, forward_flops_per_image, peak_flops_per_second
from fastvit_train.schedule import Phase
from runs import tiny_cifar_vit


def test_patches_that_are_dropped_are_not_counted():
    model = tiny_cifar_vit(num_classes=10, resolution=32, patch_drop_rate=0.5)
    dim, depth = 96, 3

    def expected(kept):
        tokens = kept + 1
        block = 2 * tokens * 12 * dim**2 + 4 * tokens**2 * dim
        return 3 * (depth * block + 2 * dim * 10) + 2 * (2 * 64 * 48 * dim)  # no gradient of the pixels

    assert flops_per_image(model, Phase(32, 0.0)) == pytest.approx(expected(64), rel=1e-6)
    assert flops_per_image(model, Phase(32, 0.5)) == pytest.approx(expected(32), rel=1e-6)


def test_an_image_that_is_classified_takes_one_pass_with_all_patches():
    model = tiny_cifar_vit(num_classes=10, resolution=32, patch_drop_rate=0.5).train()
    dim, depth, tokens = 96, 3, 65
    block = 2 * tokens * 12 * dim**2 + 4 * tokens**2 * dim
    assert forward_flops_per_image(model, 32) == depth * block + 2 * dim * 10 + 2 * 64 * 48 * dim


def test_counting_leaves_no_trace():
    model = timm.create_model("test_resnet", num_classes=4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert flops_per_image(model, Phase(64, 0.0)) == pytest.approx(4 * flops_per_image(model, Phase(32, 0.0)), rel=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989),
        ("NVIDIA H100 80GB HBM3", torch.float16, 989),
        ("NVIDIA H100 80GB HBM3", torch.float32, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16, None),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756),
        ("NVIDIA H200", torch.bfloat16, 989),
        ("NVIDIA H200 NVL", torch.bfloat16, 835),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312),
        ("NVIDIA A10", torch.bfloat16, None),
        ("NVIDIA L4", torch.bfloat16, 121),
        ("NVIDIA L40S", torch.bfloat16, 362),
        ("NVIDIA L40", torch.bfloat16, 181),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16, None),
        ("Tesla V100-SXM2-32GB", torch.float16, 125),
        ("Tesla V100-SXM2-32GB", torch.bfloat16, None),
        ("Tesla V100-PCIE-16GB", torch.float16, 112),
        ("Tesla T4", torch.float16, 65),
        ("AMD EPYC", torch.bfloat16, None),
    ],
)
def test_the_peak_is_that_of_the_card(name, dtype, teraflops):
    peak = peak_flops_per_second(name, dtype)
    assert peak == (None if teraflops is None else pytest.approx(1e12 * teraflops))
