"""A ViT in regions for torch.compile: equal blocks share one region's code, which is there several times sooner.

A region ends where a block has multiplied its last matrix, and the next one adds the result: both are in memory at that
moment anyway, and the sum, the normalisation after it and their gradients stay one kernel. A border between whole
blocks costs one pass more over memory, forward and backward.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

__all__ = ["compute_in_regions", "has_regions"]

_Code = Callable[..., Any]


class _Regions(NamedTuple):
    """The code of each region."""

    embed: _Code
    begin: _Code
    proceed: _Code
    finish: _Code


def has_regions(model: nn.Module) -> bool:
    """Whether `compute_in_regions` knows this model: a ViT of timm whose blocks are the plain ones."""
    return type(model) is VisionTransformer and all(
        type(block) is Block for block in model.get_submodule("blocks").children()
    )


def compute_in_regions(model: VisionTransformer, compiled: Callable[[_Code], _Code]) -> None:
    """Have a ViT call a region's code one after the other; its parameters and what it computes stay as they are.

    Args:
        model: One that `has_regions`, on its device; changed in place.
        compiled: Makes a region's code from a function, such as `torch.compile`.
    """
    for module in model.blocks.modules():
        if type(module) is DropPath:
            rate = torch.tensor(module.drop_prob, device=model.pos_embed.device)
            module.register_buffer("rate", rate, persistent=False)
            module.__class__ = _DropPath
    model.regions = _Regions(compiled(_embed), compiled(_begin), compiled(_proceed), compiled(_finish))
    # As in `use_plain_attention`: names and hooks stay, and what is deep-copied later keeps its own weights.
    model.__class__ = _RegionalViT


class _RegionalViT(VisionTransformer):  # type: ignore[misc]  # timm has no types
    """It reads the attributes of timm's ViT and its blocks that their own `forward` do: timm 1.0.28 and 1.0.31."""

    def forward(self, x: Tensor) -> Tensor:
        """As timm's: [b, 3, h, w] to logits [b, num_classes]."""
        first, *others = self.blocks
        tokens, branch = self.regions.begin(first, self.regions.embed(self, x))
        for before, block in pairwise([first, *others]):
            tokens, branch = self.regions.proceed(before, block, tokens, branch)
        logits: Tensor = self.regions.finish(self, self.blocks[-1], tokens, branch)
        return logits


def _embed(model: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens [b, n, dim] before the first block."""
    tokens = model.patch_drop(model._pos_embed(model.patch_embed(images)))
    # What a convolution gives with the channels apart would keep all sums after it so, and their norms from fusing.
    embedded: Tensor = model.norm_pre(tokens).contiguous()
    return embedded


def _begin(block: Block, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """A block but for its last sum: the tokens after attention, and what the MLP makes of them."""
    tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
    return tokens, block.mlp(block.norm2(tokens))


def _end(block: Block, tokens: Tensor, branch: Tensor) -> Tensor:
    """What `_begin` leaves to be done."""
    total: Tensor = tokens + block.drop_path2(block.ls2(branch))
    return total


def _proceed(before: Block, block: Block, tokens: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
    """From inside one block to inside the next."""
    return _begin(block, _end(before, tokens, branch))


def _finish(model: VisionTransformer, block: Block, tokens: Tensor, branch: Tensor) -> Tensor:
    """From inside the last block to the logits."""
    logits: Tensor = model.forward_head(model.norm(_end(block, tokens, branch)))
    return logits


class _DropPath(DropPath):  # type: ignore[misc]
    """timm's drop path with its rate as a tensor: as a number, each block would need code for its own."""

    rate: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As timm's."""
        if not self.training:
            return x
        keep = 1 - self.rate
        kept = torch.rand((len(x), *[1] * (x.ndim - 1)), device=x.device) < keep
        dropped: Tensor = x * (kept / keep if self.scale_by_keep else kept).to(x.dtype)
        return dropped
