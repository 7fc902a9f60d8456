"""What a device computes in."""

import torch

from fastvit_train.config import Config


def has_bf16_products(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware; elsewhere they take up to a hundred times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_in_bf16(config: Config, device: torch.device) -> bool:
    """Whether a run uses bf16 autocast."""
    return has_bf16_products(device) if config.precision == "auto" else config.precision == "bf16"
