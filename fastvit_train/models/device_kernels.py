"""Which kernels a model computes in, by its device."""

import torch
from torch import nn

from fastvit_train.models.patch_matmul import use_patch_matmul
from fastvit_train.models.plain_attention import use_plain_attention
from fastvit_train.models.short_attention import use_short_attention

__all__ = ["use_fast_modules"]


def use_fast_modules(model: nn.Module, device: torch.device) -> None:
    """Have modules of timm compute the same by what is fastest on the device; parameters and names stay."""
    if device.type == "cpu":
        use_plain_attention(model)
    elif device.type == "cuda":
        use_short_attention(model)
        use_patch_matmul(model)
