"""Evaluation: every image exactly once, on any number of ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvit_train.augment import Augmentation, flip_and_shift, normalize
from fastvit_train.config import Config
from fastvit_train.distributed import World
from fastvit_train.metrics import Totals
from fastvit_train.prefetch import Prefetcher
from loaders import ImageLoader
from loaders.errors import FastvitError

__all__ = ["Evaluation", "evaluate"]


class Evaluation(NamedTuple):
    """What a model does on a dataset."""

    top1: float
    """Share of the images whose plain prediction is right."""
    top1_averaged: float | None
    """The same for predictions averaged over changed views of each image; None unless asked for."""
    loss: float
    """Mean cross entropy of the plain predictions."""
    num_images: int


# The views whose logits are added to those of the plain image, as (mirrored, pixels down, pixels right).
_VIEWS: dict[str, tuple[tuple[bool, int, int], ...]] = {
    "none": (),
    "flip": ((True, 0, 0),),
    "flip_shift": ((True, 0, 0), (False, 1, 1), (True, 1, 1), (False, -1, -1), (True, -1, -1)),
}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: ImageLoader,
    config: Config,
    *,
    world: World,
    dtype: torch.dtype,
    autocast: AbstractContextManager[object],
    observe: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Evaluation:
    """Evaluate on all of `loader`, over all ranks.

    Args:
        model: From [b, 3, h, w] to logits; left in evaluation mode.
        loader: The validation set; `drop_last` must be off.
        config: Normalisation, and which views are averaged besides the plain prediction.
        world: The ranks that share the work.
        dtype: Of the images that the model is given.
        autocast: The context that the model runs in.
        observe: Is shown every batch's plain logits float32 [b, classes], labels int64 [b] and index int64 [b].

    Raises:
        FastvitError: The loader gave no image at all.
    """
    model.eval()
    views = _VIEWS[config.eval_averaging]
    plain, averaged = Totals(world.device), Totals(world.device)
    loader.set_epoch(0)
    for images, labels, index in Prefetcher(loader, world.device):
        with autocast:
            logits = model(normalize(images, config.augment, dtype)).float()
            plain.add(F.cross_entropy(logits, labels), logits, labels)
            if observe is not None:
                observe(logits, labels, index)
            if views:
                for view in views:
                    logits += model(normalize(_changed(images, *view), config.augment, dtype)).float()
                averaged.add(torch.zeros((), device=world.device), logits, labels)
    loss, hits, count = world.sum(plain.sums()).tolist()
    if not count:
        raise FastvitError(f"{config.data.val} gave no image to evaluate on")
    averaged_hits = world.sum(averaged.sums())[1].item()
    return Evaluation(hits / count, averaged_hits / count if views else None, loss / count, int(count))


def _changed(images: Tensor, mirrored: bool, down: int, right: int) -> Tensor:
    flip = torch.full((len(images),), mirrored, device=images.device)
    shift = torch.tensor([[down, right]], device=images.device).expand(len(images), 2)
    return flip_and_shift(images, Augmentation(flip, shift))
