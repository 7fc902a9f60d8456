"""A ViT in regions computes what it computes without, and its equal blocks share their code."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

from fastvit_train.config import ModelConfig
from fastvit_train.models import build_model, set_patch_drop
from fastvit_train.models.plain_attention import use_plain_attention
from fastvit_train.models.vit_regions import compute_in_regions, has_regions
from runs import TINY


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@pytest.fixture
def images() -> Tensor:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(TINY, num_classes=4, resolution=32, config=ModelConfig(**options))


@pytest.mark.parametrize("options", [{}, {"pooling": "avg", "bf16_residual": True}, {"qk_norm": True}], ids=str)
@pytest.mark.parametrize("plain_attention", [False, True])
def test_it_computes_the_same(images, options, plain_attention):
    whole = vit(**options)
    if plain_attention:
        use_plain_attention(whole)
    regional = copy.deepcopy(whole)
    compute_in_regions(regional, uncompiled)
    assert regional.state_dict().keys() == whole.state_dict().keys()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = [model(images).float() for model in (whole, regional)]
    assert torch.equal(*logits)
    for answer in logits:
        answer.square().sum().backward()
    for mine, wanted in zip(regional.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine.grad, wanted.grad)


def test_layer_scale_stays_with_its_block():
    torch.manual_seed(0)
    whole = build_model("timm/test_vit3", num_classes=4, resolution=32)
    for number, block in enumerate(whole.blocks):
        nn.init.constant_(block.ls2.gamma, 0.1 * number)
    regional = copy.deepcopy(whole)
    compute_in_regions(regional, uncompiled)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(regional(images), whole(images))


def test_only_plain_vits_have_regions():
    models = {name: build_model(f"timm/test_{name}", num_classes=4, resolution=64) for name in ("vit", "resnet")}
    assert has_regions(models["vit"])
    assert not has_regions(models["resnet"])
    models["vit"].blocks[1] = ParallelScalingBlock(64, 2)
    assert not has_regions(models["vit"])


def test_paths_are_dropped_at_their_rates():
    """Of a block whose branches give ones, each image's tokens get 0, 1 / keep or twice that."""
    model = vit(drop_path=0.5)
    compute_in_regions(model, uncompiled)
    rates = torch.linspace(0, 0.5, len(model.blocks))
    ones = torch.ones(4000, 1, 8)
    torch.manual_seed(1)
    for rate, block in zip(rates[1:].tolist(), model.blocks[1:], strict=True):
        dropped = block.drop_path2(ones)
        assert set(dropped.flatten().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
        assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.03)
        assert (dropped == 0).all(dim=-1).equal((dropped == 0).any(dim=-1)), "an image's tokens share their fate"
        assert torch.equal(block.drop_path2.eval()(ones), ones)


def test_equal_blocks_share_their_code(images):
    """Five graphs for training, five for evaluation, however many blocks there are."""
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model, average = vit(drop_path=0.5, patch_drop=0.5), vit(drop_path=0.5, patch_drop=0.5)
    for each in (model, average):
        compute_in_regions(each, partial(torch.compile, backend=count, dynamic=False, fullgraph=True))
    model.train()
    for _ in range(2):
        model(images).sum().backward()
    assert len(graphs) == 5, "embedding, first block, the one after it, all others, classifier"
    with torch.no_grad():
        for each in (model, average):
            each.eval()(images)
    assert len(graphs) == 10
    set_patch_drop(model.train(), 0.0)
    model(images)
    assert len(graphs) == 15, "other tokens, other shapes"
