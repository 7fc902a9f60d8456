"""How a ViT starts: position embeddings, weights and residual sums other than timm's own."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from fastvit_train.config import ModelConfig
from fastvit_train.models.whitening import whitening_filters
from loaders.errors import FastvitError

__all__ = ["start_vit", "whiten_patches"]


@torch.no_grad()
def start_vit(model: nn.Module, config: ModelConfig) -> None:
    """Give a new ViT the positions and the weights that `config` asks for; any other model if it asks for nothing.

    Raises:
        FastvitError: It asks for something, and the model is not one of timm's VisionTransformers.
    """
    wanted = {
        "model.positions sincos2d": (config.positions == "sincos2d", _fix_positions),
        "model.mimetic_init": (config.mimetic_init, _mimic_trained_attention),
        "model.zero_residual": (config.zero_residual, _zero_residuals),
        "model.bf16_residual": (config.bf16_residual, _keep_residuals_in_bf16),
    }
    for name, (is_wanted, change) in wanted.items():
        if is_wanted:
            if not isinstance(model, VisionTransformer):
                raise FastvitError(f"{name} is for ViTs, but the model is a {type(model).__name__}; leave it out")
            change(model)


@torch.no_grad()
def whiten_patches(model: nn.Module, images: Tensor) -> None:
    """Make a ViT's patch embedding a random rotation of the whitened patches of images, each output of unit power.

    Args:
        model: One of timm's VisionTransformers.
        images: Normalised floats [n, 3, h, w], as the model will get them.

    Raises:
        FastvitError: It is another model.
    """
    if not isinstance(model, VisionTransformer):
        raise FastvitError(f"model.whiten_patches is for ViTs, but the model is a {type(model).__name__}; leave it out")
    projection = model.patch_embed.proj
    side = projection.kernel_size[0]
    filters = whitening_filters(images, side=side, stride=side).flatten(1)
    rotation = torch.empty(model.embed_dim, len(filters), device=filters.device)
    nn.init.orthogonal_(rotation, gain=max(1.0, model.embed_dim / len(filters)) ** 0.5)
    projection.weight.copy_((rotation @ filters).view_as(projection.weight))


def _fix_positions(model: VisionTransformer) -> None:
    """Sines and cosines of row and column, which are not trained; zeros for class and register tokens.

    Source: "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580.
    """
    grid = build_sincos2d_pos_embed(model.patch_embed.grid_size, dim=model.embed_dim, interleave_sin_cos=False)
    model.pos_embed.zero_()
    model.pos_embed[0, model.pos_embed.shape[1] - len(grid) :] = grid
    model.pos_embed.requires_grad_(False)


def _mimic_trained_attention(model: VisionTransformer) -> None:
    """Queries meet keys of their own kind, and values come out negated, as in trained ViTs.

    Per head, `W_q^T W_k` is the closest matrix of the head's rank to `0.7 I + 0.7 Z`, and `W_proj W_v` is
    `0.4 Z - 0.4 I`, where Z has normal entries of variance 1 / dim. Source: "Mimetic Initialization of Self-Attention
    Layers", arXiv 2305.09828.
    """
    for block in model.blocks:
        attention, dim = block.attn, model.embed_dim
        queries, keys, values = attention.qkv.weight.chunk(3)
        for head in range(attention.num_heads):
            rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            left, right = _factors(0.7, 0.7, dim)
            queries[rows], keys[rows] = left.T[: attention.head_dim], right[: attention.head_dim]
        left, right = _factors(0.4, -0.4, dim)
        attention.proj.weight.copy_(left)
        values.copy_(right)


def _factors(noise: float, diagonal: float, dim: int) -> tuple[Tensor, Tensor]:
    """Two [dim, dim] matrices whose product is `noise * Z + diagonal * I`, the strongest directions first."""
    product = noise * torch.randn(dim, dim) / dim**0.5 + diagonal * torch.eye(dim)
    left, strengths, right = torch.linalg.svd(product)
    return left * strengths.sqrt(), strengths.sqrt()[:, None] * right


def _zero_residuals(model: VisionTransformer) -> None:
    """The last layer of each residual branch gives nothing yet; the first step changes that."""
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def _keep_residuals_in_bf16(model: VisionTransformer) -> None:
    """Round the sum of patches and positions, in float32 as the positions are, to bf16 under autocast to it."""
    model.norm_pre.register_forward_hook(_round_as_autocast)


def _round_as_autocast(module: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001 - a hook's
    kind = output.device.type
    # Not to float16, which a sum over all blocks may leave.
    in_bf16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    return output.bfloat16() if in_bf16 else output
