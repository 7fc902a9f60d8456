"""Evaluation: every image exactly once, on any number of ranks."""

from collections.abc import Callable, Iterator
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
from fastvit_train.sharding import is_sharded
from loaders import Batch, ImageLoader
from loaders.errors import FastvitError

__all__ = ["Evaluation", "evaluate", "num_views"]


class Evaluation(NamedTuple):
    """What a model does on a dataset."""

    top1: float
    """Share of the images whose plain prediction is right."""
    top1_averaged: float | None
    """The same for predictions averaged over changed views of each image; None unless asked for."""
    loss: float
    """Mean cross entropy of the plain predictions."""
    num_images: int


class _View(NamedTuple):
    """An image, changed."""

    weight: float
    """Of its logits, where those of the plain image have 1."""
    mirrored: bool
    shift: int
    """Pixels down and to the right."""


# What is averaged with the plain image. Source: `tta_level` 1 and 2 of KellerJordan/cifar10-airbench.
_VIEWS: dict[str, tuple[_View, ...]] = {
    "none": (),
    "flip": (_View(1, True, 0),),
    "flip_shift": (
        _View(1, True, 0),
        *(_View(0.5, mirrored, shift) for shift in (1, -1) for mirrored in (False, True)),
    ),
}


def num_views(averaging: str) -> int:
    """How often the model sees each image in an evaluation with this `Config.eval_averaging`."""
    return 1 + len(_VIEWS[averaging])


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
    after_batch: Callable[[], None] | None = None,
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
        after_batch: Called after each batch; may raise to end the evaluation.

    Raises:
        FastvitError: The loader gave no image at all.
    """
    model.eval()
    views = _VIEWS[config.eval_averaging]
    plain, averaged = Totals(world.device), Totals(world.device)
    loader.set_epoch(0)
    for images, labels, index in _batches(model, loader, world):
        if not len(labels):
            _keep_pace(model, config, times=1 + len(views), device=world.device, autocast=autocast)
            continue
        with autocast:
            logits = model(normalize(images, config.augment, dtype))[: len(labels)].float()
            plain.add(F.cross_entropy(logits, labels), logits, labels)
            if observe is not None:
                observe(logits, labels, index)
            if views:
                summed = logits.clone()  # the model's next call may write into the memory of its last result
                for view in views:
                    of_view = model(normalize(_changed(images, view), config.augment, dtype))
                    summed += view.weight * of_view[: len(labels)].float()
                averaged.add(torch.zeros((), device=world.device), summed, labels)
        if after_batch is not None:
            after_batch()
    loss, hits, count = world.sum(plain.sums()).tolist()
    if not count:
        raise FastvitError(f"{config.data.val} gave no image to evaluate on")
    averaged_hits = world.sum(averaged.sums())[1].item()
    return Evaluation(hits / count, averaged_hits / count if views else None, loss / count, int(count))


def _batches(model: nn.Module, loader: ImageLoader, world: World) -> Iterator[Batch]:
    """The batches on the device; of a sharded model as many on every rank, empty ones at the end.

    The last one gets images without labels, so that it is as large as the others: for another shape, code would be
    compiled and kernels would be chosen again.
    """
    num_batches = max(world.gather(len(loader))) if is_sharded(model) else 0
    most_images = 0
    for images, labels, index in Prefetcher(loader, world.device):
        num_batches -= 1
        most_images = max(most_images, len(images))
        missing = most_images - len(images) if len(images) else 0
        yield Batch(F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images, labels, index)
    nothing = torch.empty(0, dtype=torch.int64, device=world.device)
    for _ in range(num_batches):
        yield Batch(nothing, nothing, nothing)


def _keep_pace(
    model: nn.Module, config: Config, *, times: int, device: torch.device, autocast: AbstractContextManager[object]
) -> None:
    """Call a sharded model on a picture of nothing, as the ranks that have images need this rank's weights."""
    if not is_sharded(model):
        return
    side = config.data.resolution
    with autocast, torch.compiler.set_stance("force_eager"):  # one image is not worth compiling for
        for _ in range(times):
            model(torch.zeros((1, 3, side, side), device=device))


def _changed(images: Tensor, view: _View) -> Tensor:
    # Made on the device: a copy from the host would wait for it.
    flip = torch.full((len(images),), view.mirrored, device=images.device)
    shift = torch.full((len(images), 2), view.shift, device=images.device)
    return flip_and_shift(images, Augmentation(flip, shift))
