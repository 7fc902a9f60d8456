"""Self-attention on CUDA: the kernel that is fastest for short sequences, which torch would not choose."""

import torch
from timm.layers import Attention
from torch import Tensor, nn

__all__ = ["LONGEST", "ShortAttention", "use_short_attention"]

LONGEST = 64
"""Tokens up to which it is the fastest, as measured on one H200 in bf16, forward and backward of 1000 images: 0.85 ms
for 64 tokens where cuDNN took 1.14 and flash attention 1.50, and 0.41 for 18, against 0.81 and 0.91; for 65, it took
1.38, cuDNN 1.30."""


def use_short_attention(model: nn.Module) -> None:
    """Have timm's attention take torch's memory-efficient kernel for sequences that are short enough."""
    for module in model.modules():
        if isinstance(module, Attention) and _is_plain(module):
            module.__class__ = ShortAttention  # not a new module, for the reasons of `use_plain_attention`


def _is_plain(attention: Attention) -> bool:
    """Whether queries and keys come in the type of the values, and all of them count."""
    kind = type(attention) is Attention
    return kind and isinstance(attention.q_norm, nn.Identity) and not attention.attn_drop.p


class ShortAttention(Attention):  # type: ignore[misc]  # timm has no types
    """timm's attention, in another kernel where its sequence is short.

    It reads the attributes that `PlainAttention` does.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As timm's."""
        plain = attn_mask is None and not is_causal and self.gate is None
        if not plain or x.shape[1] > LONGEST or self.head_dim % 8:
            output: Tensor = super().forward(x, attn_mask, is_causal)
        else:
            by_head = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
            queries, keys, values = by_head.unbind(0)
            attended = _attend(queries, keys, values, self.scale).transpose(1, 2).flatten(2)
            output = self.proj_drop(self.proj(self.norm(attended)))
        return output


def _attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """[b, h, n, d] each, to the same.

    Not by `sdpa_kernel`, which torch.compile may trace at another time than it runs. The kernel has no public name of
    its own: this one was checked with 2.11.0 and 2.14.1.
    """
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    attended: Tensor = kernel(queries, keys, values, None, True, scale=scale)[0]
    return attended
