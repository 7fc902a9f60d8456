"""Attention on the CPU against timm's: the same numbers by other ways."""

from copy import deepcopy

import pytest
import torch
from timm.layers import Attention
from torch import Tensor, nn

from fastvit_train.config import ModelConfig
from fastvit_train.models import build_model
from fastvit_train.models.plain_attention import PlainAttention, use_plain_attention


def gradients(model: nn.Module, inputs: Tensor, **options: Tensor | bool) -> dict[str, Tensor]:
    """What comes out, and the gradients of its mean square by all that went in."""
    inputs = inputs.detach().requires_grad_()
    output = model(inputs, **options)
    model.zero_grad()
    output.float().square().mean().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"output": output.detach(), "inputs": inputs.grad, **found}


@pytest.fixture
def pair() -> tuple[Attention, Attention]:
    """timm's attention, its matmuls one by one, and ours of the same weights."""
    theirs = Attention(48, num_heads=3, qkv_bias=True)
    theirs.fused_attn = False
    ours = deepcopy(theirs)
    use_plain_attention(ours)
    assert isinstance(ours, PlainAttention)
    return theirs, ours


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(5, 7, 48, generator=torch.Generator().manual_seed(0))


def test_outputs_and_gradients_are_timms(pair, tokens):
    theirs, ours = (gradients(module, tokens) for module in pair)
    assert theirs["qkv.weight"].abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_autocast_computes_in_bf16(pair, tokens):
    exact = gradients(pair[0], tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, ours = (gradients(module, tokens) for module in pair)
    assert ours["output"].dtype == torch.bfloat16
    for name, wanted in exact.items():
        error, their_error = ((found[name].float() - wanted).norm() for found in (ours, theirs))
        assert error < 1.5 * their_error + 1e-6, name


def test_one_pass_gathers_queries_keys_and_values(pair, tokens):
    copies = []
    for module in pair:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.profiler.profile(acc_events=True) as profile:
            gradients(module, tokens)
        copies.append({event.key: event.count for event in profile.key_averages()})
    theirs, ours = copies
    assert ours["aten::copy_"] < theirs["aten::copy_"]
    assert "aten::cat" in theirs
    assert "aten::cat" not in ours


def test_masks_are_timms_to_handle(pair, tokens):
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    for options in ({"attn_mask": mask}, {"is_causal": True}):
        theirs, ours = (gradients(module, tokens, **options) for module in pair)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_no_model_keeps_the_fused_kernel(qk_norm):
    model = build_model("vit_small_cifar", num_classes=10, resolution=32, config=ModelConfig(qk_norm=qk_norm)).eval()
    images = torch.randn(2, 3, 32, 32)
    fused = model(images)
    use_plain_attention(model)
    with torch.profiler.profile(acc_events=True) as profile:
        plain = model(images)
    assert not any("scaled_dot_product" in event.key for event in profile.key_averages())
    torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-4)
    copied = deepcopy(model)  # as the moving average does
    with torch.no_grad():
        copied.blocks[0].attn.proj.weight.zero_()
    torch.testing.assert_close(model(images), plain, atol=0, rtol=0)
    assert not torch.equal(copied(images), plain)
