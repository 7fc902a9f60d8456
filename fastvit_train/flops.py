"""Floating-point operations: how many a model needs for an image, and how many a device could do."""

import copy

import torch
from timm.layers import PatchDropout
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvit_train.models import set_patch_drop
from fastvit_train.models.plain_attention import use_plain_attention
from fastvit_train.schedule import Phase

__all__ = ["flops_per_image", "forward_flops_per_image", "peak_flops_per_second"]

# What makers give as the dense rate of bf16 (of fp16 where there is no bf16), accumulated in float32, in TFLOP/s.
# Datasheets that name the rate "with sparsity" have twice as much. The keys are parts of the names that CUDA gives.
_PEAK_TERAFLOPS = {
    "NVIDIA B200": 2250,  # nvidia.com/en-us/data-center/hgx
    "NVIDIA GH200": 989,  # nvidia.com/en-us/data-center/grace-hopper-superchip
    "NVIDIA H200 NVL": 835,  # nvidia.com/en-us/data-center/h200
    "NVIDIA H200": 989,
    "NVIDIA H100 NVL": 835,  # nvidia.com/en-us/data-center/h100
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 80GB HBM3": 989,  # SXM
    "NVIDIA A100": 312,  # nvidia.com/en-us/data-center/a100
    "NVIDIA L40S": 362,  # nvidia.com/en-us/data-center/l40s
    "NVIDIA L40": 181,  # nvidia.com/en-us/data-center/l40
    "NVIDIA L4": 121,  # nvidia.com/en-us/data-center/l4
    "NVIDIA GeForce RTX 4090": 165.2,  # NVIDIA Ada GPU Architecture, version 2.1, appendix A
    "NVIDIA GeForce RTX 3090": 71,  # NVIDIA Ampere GA102 GPU Architecture, version 2.1, table 9
    "V100-SXM": 125,  # fp16; nvidia.com/en-us/data-center/v100
    "V100-PCIE": 112,
    "Tesla T4": 65,  # fp16; nvidia.com/en-us/data-center/tesla-t4
}
# Cards whose names begin like one of those above but that are slower.
_OTHERS = ("MIG", "L40G", "RTX 4090 D", "RTX 4090 Laptop", "RTX 3090 Ti")


def flops_per_image(model: nn.Module, phase: Phase) -> float:
    """Operations of the model's matmuls and convolutions for a training image, forward and backward.

    A multiply-add is two. They are counted on a copy, so that nothing of the model changes, and no random state.
    """
    counted = copy.deepcopy(model).eval()  # no batch statistics, no dropout: they have no matmuls
    for module in counted.modules():
        if isinstance(module, PatchDropout):
            module.train()
    set_patch_drop(counted, phase.patch_drop)
    use_plain_attention(counted)  # the counter does not know all fused kernels
    device = next(counted.parameters()).device
    images = torch.zeros(2, 3, phase.resolution, phase.resolution, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), FlopCounterMode(display=False) as counter:
        # Not counted(images): that may be compiled, which would take a minute.
        counted.forward(images).sum().backward()
    return float(counter.get_total_flops()) / len(images)


@torch.no_grad()
def forward_flops_per_image(model: nn.Module, resolution: int) -> float:
    """The same for an image that the model is not trained on: forward alone, with all patches."""
    counted = copy.deepcopy(model).eval()
    use_plain_attention(counted)
    images = torch.zeros(2, 3, resolution, resolution, device=next(counted.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        counted.forward(images)
    return float(counter.get_total_flops()) / len(images)


def peak_flops_per_second(device_name: str, dtype: torch.dtype) -> float | None:
    """What a card could do in a second, from its maker's table.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it.
        dtype: What autocast goes to: matmuls in float8 are compared with the rate of bf16.

    Returns:
        None for cards that are not in the table, and for float32.

    Examples:
        >>> peak_flops_per_second("NVIDIA H100 80GB HBM3", torch.bfloat16)
        989000000000000.0
    """
    if dtype not in (torch.bfloat16, torch.float16) or any(part in device_name for part in _OTHERS):
        return None
    if dtype == torch.bfloat16 and any(part in device_name for part in ("V100", "T4")):
        return None  # these emulate it
    return next((1e12 * peak for part, peak in _PEAK_TERAFLOPS.items() if part in device_name), None)
