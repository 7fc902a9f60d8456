"""Self-attention for the CPU: its matmuls one by one, with few passes over memory between them."""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastvit_train.models.short_attention import ShortAttention

__all__ = ["PlainAttention", "use_plain_attention"]


def use_plain_attention(model: nn.Module) -> None:
    """Have timm's attention compute its matmuls one by one: on the CPU, torch's fused kernel is slower.

    Forward and backward in bf16 took 3.2 times as long fused, of 24 images with 197 patches, and 5.3 times of 125 with
    64 (two Zen 5 cores). Attention without normalised queries and keys and without dropout, which is all but that of
    `model.qk_norm`, also takes fewer passes over its memory than timm's.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = False
            own = type(module) in (Attention, ShortAttention)
            if own and isinstance(module.q_norm, nn.Identity) and not module.attn_drop.p:
                # Not a new module in its place: parameters, names and hooks stay as they are, and what is deep-copied
                # later keeps its own weights, which a bound `forward` would not.
                module.__class__ = PlainAttention


class PlainAttention(Attention):  # type: ignore[misc]  # timm has no types
    """timm's attention, its queries, keys and values gathered by head in one pass.

    It reads timm's attributes `qkv`, `num_heads`, `head_dim`, `scale`, `gate`, `norm`, `proj` and `proj_drop`: checked
    with timm 1.0.28 and 1.0.31.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As timm's."""
        if attn_mask is not None or is_causal or self.gate is not None:
            output: Tensor = super().forward(x, attn_mask, is_causal)
        else:
            packed = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
            attended = self.norm(_Attend.apply(packed, self.scale))
            output = self.proj_drop(self.proj(attended))
        return output


class _Attend(torch.autograd.Function):
    """[b, n, 3, h, d], the queries, keys and values of h heads, to what they attend to: [b, n, h * d].

    The gradient of the softmax has no public name: `torch._softmax_backward_data` was checked with 2.11.0 and 2.14.1.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, scale: float) -> Tensor:  # noqa: ANN401 - as torch has it
        num_images, num_tokens, _, num_heads, head_dim = packed.shape
        by_head = packed.permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format).flatten(1, 2)
        queries, keys, values = by_head
        queries *= scale
        weights = torch.softmax(torch.bmm(queries, keys.mT), -1)
        ctx.save_for_backward(by_head, weights)
        ctx.shape, ctx.scale = packed.shape, scale
        attended = torch.bmm(weights, values).view(num_images, num_heads, num_tokens, head_dim)
        return attended.transpose(1, 2).reshape(num_images, num_tokens, num_heads * head_dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - as torch has it
        num_images, num_tokens, _, num_heads, head_dim = ctx.shape
        by_head, weights = ctx.saved_tensors
        queries, keys, values = by_head
        gradient = gradient.view(num_images, num_tokens, num_heads, head_dim).transpose(1, 2)
        gradient = gradient.reshape(num_images * num_heads, num_tokens, head_dim)
        gradients = torch.empty_like(by_head)
        torch.bmm(weights.mT, gradient, out=gradients[2])
        of_scores = torch.bmm(gradient, values.mT)
        of_scores = torch._softmax_backward_data(of_scores, weights, -1, weights.dtype)
        torch.bmm(of_scores, keys, out=gradients[0]).mul_(ctx.scale)
        torch.bmm(of_scores.mT, queries, out=gradients[1])
        by_token = gradients.view(3, num_images, num_heads, num_tokens, head_dim).permute(1, 3, 0, 2, 4)
        return by_token.contiguous(), None
