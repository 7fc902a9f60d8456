"""How many parts a batch is computed in where the config leaves that open: as few as are good for the device.

All of them make the same step, up to rounding. Not so with batch normalisation, whose statistics are those of a part:
there it is one part, on every device.
"""

import copy
import math

import torch
from timm.layers import PatchDropout
from torch import Tensor, nn

from fastvit_train.batch_norm import has_batch_norm
from fastvit_train.config import Config
from fastvit_train.data import share_of_batch
from fastvit_train.distributed import World
from fastvit_train.models import set_patch_drop
from fastvit_train.schedule import phases_of

__all__ = ["resolve_accumulate", "saved_bytes_per_image"]

_CPU_BYTES = 0.75 * 2**30
"""What the backward pass of a part may need on the CPU, where small parts are faster: what the small ViT needs for 125
images of 32 px in bf16, which docs/recipes.md has the figures for."""
_CUDA_SHARE = 0.8
"""Of the memory that is free on a CUDA device before training, for the same and for the weights' companions."""
_BYTES_PER_WEIGHT = 20
"""Of these: gradient, two moments, moving average and two copies in bf16."""


def resolve_accumulate(config: Config, model: nn.Module, world: World, *, dtype: torch.dtype) -> int:
    """The parts that each rank computes its share of a batch in; every rank has to call it.

    Args:
        config: Its `accumulate` wins where it is given.
        model: On its device, neither compiled nor sharded.
        world: The ranks that share a batch. All have as many parts as the one with the least memory needs.
        dtype: What autocast goes to.
    """
    share = share_of_batch(config, world.world_size)
    if config.accumulate is not None:
        return config.accumulate
    if has_batch_norm(model) or config.needs_whole_batches:
        return 1
    needed = share * saved_bytes_per_image(config, model, world.device, dtype=dtype)
    parts = max(world.gather(math.ceil(needed / _budget(model, world.device))))
    return next(divisor for divisor in range(1, share + 1) if share % divisor == 0 and divisor >= min(parts, share))


def _budget(model: nn.Module, device: torch.device) -> float:
    """Bytes that the backward pass of a part may need."""
    if device.type != "cuda":
        return _CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    num_weights = sum(weight.numel() for weight in model.parameters())
    return max(1.0, _CUDA_SHARE * free - _BYTES_PER_WEIGHT * num_weights)


def saved_bytes_per_image(config: Config, model: nn.Module, device: torch.device, *, dtype: torch.dtype) -> float:
    """What the forward pass keeps of an image for the backward pass, in the most expensive phase.

    It is seen in uncompiled code, which keeps a little more than compiled code does.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, PatchDropout):
            module.train()
    most = 0.0
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for phase in phases_of(config):
            set_patch_drop(model, phase.patch_drop)
            # What is kept of the weights does not depend on the images.
            few, more = (_saved_bytes(model, count, phase.resolution, device, dtype=dtype) for count in (1, 3))
            most = max(most, (more - few) / 2)
    return most


def _saved_bytes(model: nn.Module, count: int, side: int, device: torch.device, *, dtype: torch.dtype) -> int:
    """What is kept of so many images."""
    sizes: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        memory = saved.untyped_storage()
        sizes[memory._cdata] = memory.nbytes()  # its address; fake tensors have no other
        return saved

    images = torch.zeros(count, 3, side, side, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    with autocast, torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        logits = model(images)
    del logits
    return sum(sizes.values())
