"""Positions and weights that a ViT starts with."""

import pytest
import torch
from torch.nn import functional as F

from fastvit_train.config import ModelConfig
from fastvit_train.models import build_model
from fastvit_train.models.vit_start import whiten_patches


def build(arch: str = "vit_small_cifar", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(arch, num_classes=10, resolution=32, config=ModelConfig(**options))


@pytest.mark.parametrize(("pooling", "num_prefix"), [("token", 1), ("avg", 0)])
def test_fixed_positions_are_sines_of_row_and_column(pooling, num_prefix):
    model = build(positions="sincos2d", pooling=pooling)
    positions = model.pos_embed[0]
    assert not model.pos_embed.requires_grad
    assert positions.shape == (num_prefix + 64, 384)
    assert not positions[:num_prefix].any()
    grid = positions[num_prefix:].view(8, 8, 384)
    torch.testing.assert_close(grid.square().sum(-1), torch.full((8, 8), 192.0))  # sin^2 + cos^2 per frequency
    shares = [(grid.diff(dim=axis).abs() > 1e-6).any(dim=(0, 1)).float().mean().item() for axis in (0, 1)]
    assert shares == pytest.approx([0.5, 0.5], abs=0.05), "half of the numbers tell the row, the others the column"


def test_mimetic_attention_has_its_products():
    model = build(mimetic_init=True)
    for block in model.blocks:
        queries, keys, values = block.attn.qkv.weight.detach().chunk(3)
        product = block.attn.proj.weight.detach() @ values
        assert product.diagonal().mean().item() == pytest.approx(-0.4, abs=0.02)
        assert (product - torch.diag(product.diagonal())).std().item() == pytest.approx(0.4 / 384**0.5, rel=0.05)
        for query, key in zip(queries.split(64), keys.split(64), strict=True):
            similarity = query.T @ key
            assert torch.linalg.matrix_rank(similarity, rtol=1e-4) == 64
            assert similarity.diagonal().mean() > 5 * similarity.fill_diagonal_(0).mean().abs()
    first, second = (block.attn.qkv.weight for block in model.blocks[:2])
    assert not torch.equal(first, second)


def test_zero_residuals_make_the_identity():
    model = build(zero_residual=True)
    inputs = torch.randn(2, 65, 384)
    for block in model.blocks:
        assert torch.equal(block(inputs), inputs)


def test_whitened_patches_have_uncorrelated_values_of_unit_power():
    model = build()
    images = torch.randn(200, 3, 32, 32).cumsum(-1).cumsum(-2)  # neighbours are alike, as in photos
    whiten_patches(model, images)
    weight = model.patch_embed.proj.weight.detach()
    values = F.conv2d(images, weight, stride=4).transpose(0, 1).flatten(1)
    assert values.square().mean().item() == pytest.approx(1, rel=0.05)
    power = torch.linalg.svdvals(values) ** 2 / values.shape[1]
    torch.testing.assert_close(power[:48], torch.full((48,), 384 / 48), rtol=0.1, atol=0)
    assert power[48:].max() < 1e-3, "48 numbers make 384, in a rotation"


def test_only_vits_whiten_their_patches():
    with pytest.raises(ValueError, match="whiten_patches is for ViTs, but the model is a ResNetFast; leave it out"):
        whiten_patches(build("resnet_fast_cifar"), torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("is_on", [True, False])
def test_residuals_are_bf16_under_autocast_alone(is_on):
    model = build(bf16_residual=is_on)
    seen = []
    model.blocks[3].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    images = torch.randn(2, 3, 32, 32)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images)
    with torch.autocast("cpu", torch.float16):
        model(images)
    assert seen == [torch.float32, torch.bfloat16 if is_on else torch.float32, torch.float32]
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"positions": "sincos2d"}, "model.positions sincos2d"),
        ({"mimetic_init": True}, "model.mimetic_init"),
        ({"zero_residual": True}, "model.zero_residual"),
        ({"bf16_residual": True}, "model.bf16_residual"),
    ],
)
def test_other_models_refuse_it(options, name):
    with pytest.raises(ValueError, match=f"{name} is for ViTs, but the model is a ResNetFast; leave it out"):
        build("resnet_fast_cifar", **options)
