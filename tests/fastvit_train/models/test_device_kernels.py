"""On CUDA, short sequences and patches go to other kernels than timm's, and come to the same."""

from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastvit_train.config import ModelConfig
from fastvit_train.models import build_model
from fastvit_train.models.device_kernels import use_fast_modules
from fastvit_train.models.patch_matmul import PatchMatmul, use_patch_matmul
from fastvit_train.models.plain_attention import PlainAttention, use_plain_attention
from fastvit_train.models.short_attention import LONGEST, ShortAttention, use_short_attention
from runs import TINY

CUDA = torch.device("cuda")


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What comes out, and the gradients of its mean square."""
    model.zero_grad()
    output = model(inputs)
    output.float().square().mean().backward()
    return {"output": output.detach(), **{name: parameter.grad for name, parameter in model.named_parameters()}}


def test_each_device_has_its_modules():
    counts = {}
    for kind in ("cpu", "cuda"):
        model = build_model(TINY, num_classes=4, resolution=32)
        names = list(model.state_dict())
        use_fast_modules(model, torch.device(kind))
        assert list(model.state_dict()) == names
        kinds = Counter(type(module) for module in model.modules())
        counts[kind] = [kinds[other] for other in (Attention, PlainAttention, ShortAttention, PatchMatmul)]
    assert counts == {"cpu": [0, 6, 0, 0], "cuda": [0, 0, 6, 1]}


@pytest.mark.parametrize(("num_tokens", "is_short"), [(18, True), (64, True), (65, False)])
def test_short_sequences_go_to_the_efficient_kernel(num_tokens, is_short):
    """On the meta device, where nothing is computed; the kernel is CUDA's alone."""
    model = Attention(384, num_heads=6, qkv_bias=True).to("meta", torch.bfloat16)
    use_short_attention(model)
    tokens = torch.empty(2, num_tokens, 384, device="meta", dtype=torch.bfloat16)
    with Operations() as operations:
        output = model(tokens)
        output.sum().backward()
    assert (output.shape, output.dtype) == (tokens.shape, tokens.dtype)
    assert model.qkv.weight.grad.shape == model.qkv.weight.shape
    for name in ("_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward"):
        assert operations.counts[f"{name}.default"] == is_short


def test_short_attention_is_timms_around_its_kernel(monkeypatch):
    """With another kernel that computes the same."""

    def attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(queries, keys, values, scale=scale)

    monkeypatch.setattr("fastvit_train.models.short_attention._attend", attend)
    theirs = Attention(48, num_heads=3, qkv_bias=True, scale_norm=True, norm_layer=nn.LayerNorm)
    ours = deepcopy(theirs)
    use_short_attention(ours)
    tokens = torch.randn(5, 7, 48, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(theirs(tokens), theirs(tokens.flip(1)))
    torch.testing.assert_close(gradients(ours, tokens), gradients(theirs, tokens))


def test_matmuls_can_still_be_told_one_by_one():
    """As for counting operations, whatever the device."""
    model = Attention(48, num_heads=3)
    use_short_attention(model)
    use_plain_attention(model)
    assert type(model) is PlainAttention


def test_normalised_queries_and_dropout_stay_with_timm():
    for options in ({"qk_norm": True, "norm_layer": nn.LayerNorm}, {"attn_drop": 0.1}):
        model = Attention(48, num_heads=3, **options)
        use_short_attention(model)
        assert type(model) is Attention


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [18, LONGEST, LONGEST + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_short_attention_on_the_gpu_is_timms(num_tokens, dtype):
    theirs = Attention(384, num_heads=6, qkv_bias=True).to(CUDA)
    ours = deepcopy(theirs)
    use_short_attention(ours)
    tokens = torch.randn(8, num_tokens, 384, device=CUDA)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        torch.testing.assert_close(gradients(ours, tokens), gradients(theirs, tokens), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("patch_drop", [0.0, 0.5])
def test_patches_are_multiplied_as_they_are_convolved(patch_drop):
    torch.manual_seed(0)
    config = ModelConfig(patch_drop=patch_drop)
    theirs = build_model(TINY, num_classes=4, resolution=32, config=config, phases=((0.5, 16, 0.0),)).eval()
    theirs.to(memory_format=torch.channels_last)
    ours = deepcopy(theirs)
    use_patch_matmul(ours)
    for side in (32, 16):
        images = torch.randn(3, 3, side, side).contiguous(memory_format=torch.channels_last)
        embedded = [model.patch_embed(images) for model in (ours, theirs)]
        assert embedded[0].stride() == embedded[1].stride()
        torch.testing.assert_close(*(gradients(model, images) for model in (ours, theirs)), atol=1e-5, rtol=1e-4)
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad.stride() == wanted.grad.stride(), "the optimizer wants gradients laid out as the weights"


def test_no_convolution_is_left():
    model = build_model(TINY, num_classes=4, resolution=32)
    use_patch_matmul(model)
    with Operations() as operations:
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert not any("convolution" in name for name in operations.counts)


def test_convolutions_that_overlap_stay():
    model = timm.create_model("test_resnet")
    use_patch_matmul(model)
    assert not any(isinstance(module, PatchMatmul) for module in model.modules())
    embedding = timm.layers.PatchEmbed(img_size=32, patch_size=4)
    embedding.proj = nn.Conv2d(3, 768, 4, stride=4, padding=1)
    use_patch_matmul(embedding)
    assert type(embedding.proj) is nn.Conv2d
