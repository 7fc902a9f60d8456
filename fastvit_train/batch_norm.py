"""Batch normalisation on several ranks, each of which sees its own images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from fastvit_train.distributed import World
from loaders.errors import FastvitError

__all__ = ["average_statistics", "frozen_statistics", "has_batch_norm", "synchronize_batch_norm"]

# Not SyncBatchNorm, whose statistics are the same on every rank.
_OF_ONE_RANK = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the model has batch normalisation, synchronised or not."""
    return any(isinstance(module, (*_OF_ONE_RANK, nn.SyncBatchNorm)) for module in model.modules())


def synchronize_batch_norm(model: nn.Module, world: World) -> nn.Module:
    """The model with its batch normalisation over the images of all ranks: the same weights, in new modules.

    Raises:
        FastvitError: The model has no batch normalisation, or torch cannot synchronise it on this device.
    """
    if not has_batch_norm(model):
        raise FastvitError("sync_batch_norm is on, but the model has no batch normalisation; leave it out")
    if world.device.type != "cuda":
        raise FastvitError(
            f"sync_batch_norm is on, but torch has it for cuda alone, and the device is {world.device.type}; "
            "leave it out: the statistics are averaged over the ranks before each evaluation"
        )
    if world.world_size == 1:  # one rank has all images
        return model
    # timm's knows its own layers of norm and activation, of which torch's would lose the activation.
    converted: nn.Module = convert_sync_batchnorm(model)
    return converted


@torch.no_grad()
def average_statistics(model: nn.Module, world: World) -> None:
    """Give every rank the mean over all ranks of the running means and variances (source: timm's `distribute_bn`).

    Training does not use them, so that it makes no difference to it how often this is done.
    """
    running = [
        buffer
        for module in model.modules()
        if isinstance(module, _OF_ONE_RANK)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if world.world_size == 1 or not running:
        return
    means = world.sum(torch.cat([buffer.flatten() for buffer in running])) / world.world_size
    for buffer, mean in zip(running, torch.split(means, [buffer.numel() for buffer in running]), strict=True):
        buffer.copy_(mean)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Have batch normalisation use its running statistics, and leave them as they are.

    Synchronised ones go on as before: the other ranks wait for their share of the statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, _OF_ONE_RANK) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
