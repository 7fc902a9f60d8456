"""Random erasing, mixup and cutmix, drawn for each image."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastvit_train.config import AugmentConfig

__all__ = ["ERASED", "Mixing", "draw_erased", "draw_mixing", "erase", "inside", "mix", "mix_labels", "partners"]

ERASED = -1
"""An erased pixel; it becomes 0, the mean colour, when it is normalised."""

_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 3.3)
_NUM_TRIES = 10


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in the boxes int64 [b, 4] (top, bottom, left, right; ends excluded): bool [b, h, w]."""
    top, bottom, left, right = boxes[:, :, None, None].unbind(1)
    row = torch.arange(height, device=boxes.device)[:, None]
    column = torch.arange(width, device=boxes.device)
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def draw_erased(probability: float, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
    """Draw the box that is erased of each image, int64 [b, 4] as `inside` takes it, empty where nothing is; None for 0.

    As in torchvision's `v2.RandomErasing`, areas and aspects are drawn until a box fits, ten times at most; source:
    arXiv 1708.04896.
    """
    if not probability:
        return None
    num_images, height, width = shape
    device = generator.device
    area_draw, aspect_draw = torch.rand((2, num_images, _NUM_TRIES), generator=generator, device=device)
    chance, down, across = torch.rand((3, num_images), generator=generator, device=device)
    area = height * width * (_ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * area_draw)
    log_aspect = [math.log(end) for end in _ERASED_ASPECT]
    aspect = (log_aspect[0] + (log_aspect[1] - log_aspect[0]) * aspect_draw).exp()
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first try where none fits
    erased = (chance < probability) & fits.any(dim=1)
    tall = torch.where(erased, tall.gather(1, first)[:, 0], 0)
    wide = torch.where(erased, wide.gather(1, first)[:, 0], 0)
    top, left = (down * (height - tall + 1)).floor(), (across * (width - wide + 1)).floor()
    return torch.stack([top, top + tall, left, left + wide], dim=1).long()


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Mark what lies in the boxes int64 [b, 4] of images int32 [b, h, w], as `ops` packs them, as ERASED."""
    return torch.where(inside(boxes, *images.shape[1:]), ERASED, images)


class Mixing(NamedTuple):
    """How much of each image is its own; the rest is its partner's."""

    opacity: Tensor
    """float32 [b]: weight of its own pixels outside the box."""
    box: Tensor
    """int64 [b, 4], as `inside` takes it: where all pixels are the partner's."""
    share: Tensor
    """float32 [b]: weight of its own label."""


def draw_mixing(config: AugmentConfig, shape: tuple[int, int, int], generator: torch.Generator) -> Mixing | None:
    """Draw mixup or cutmix for each image of a batch of `shape` [b, h, w]; None when the config asks for neither.

    Source: arXiv 1710.09412 and 1905.04899, with the boxes of torchvision's `v2.CutMix`.
    """
    if not config.mixup_alpha and not config.cutmix_alpha:
        return None
    num_images, height, width = shape
    device = generator.device
    own = _draw_beta(config.mixup_alpha, num_images, generator)
    half = 0.5 * (1 - _draw_beta(config.cutmix_alpha, num_images, generator)).sqrt()
    chance, down, across = torch.rand((3, num_images), generator=generator, device=device)
    probability = config.switch_probability if config.mixup_alpha and config.cutmix_alpha else config.cutmix_alpha > 0
    cut = chance < probability
    top, bottom = _clipped((down * height).floor(), (half * height).floor(), height)
    left, right = _clipped((across * width).floor(), (half * width).floor(), width)
    box = torch.where(cut[:, None], torch.stack([top, bottom, left, right], dim=1), 0).long()
    rest = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixing(torch.where(cut, 1, own), box, torch.where(cut, rest, own))


def _draw_beta(alpha: float, num_images: int, generator: torch.Generator) -> Tensor:
    """Draw float32 [b] from Beta(alpha, alpha); ones for an alpha of 0."""
    if not alpha:
        return torch.ones(num_images, device=generator.device)
    pair = torch.full((num_images, 2), alpha, device=generator.device)
    # Of two equal parameters it is that distribution. Private to torch (checked with 2.11.0 and 2.14.1), but what
    # torch.distributions.Beta draws from; that one takes no generator.
    return torch._sample_dirichlet(pair, generator=generator)[:, 0]


def _clipped(center: Tensor, half: Tensor, side: int) -> tuple[Tensor, Tensor]:
    return (center - half).clamp(min=0), (center + half).clamp(max=side)


def mix(own: list[Tensor], other: list[Tensor], mixing: Mixing) -> list[Tensor]:
    """Mix the normalised channels [b, h, w] of the images with those of the images that they are mixed with."""
    opacity = torch.where(inside(mixing.box, *own[0].shape[1:]), 0, mixing.opacity[:, None, None])
    return [theirs + opacity * (mine - theirs) for mine, theirs in zip(own, other, strict=True)]


def partners(values: Tensor) -> Tensor:
    """What each sample [b, ...] is mixed with: the one before it, for the first the last."""
    return values.roll(1, 0)


def mix_labels(labels: Tensor, mixing: Mixing, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix int64 [b] alike: probabilities float32 [b, classes], and the label int64 [b] that has the larger share."""
    hot = F.one_hot(labels, num_classes).float()
    share = mixing.share[:, None]
    largest = torch.where(mixing.share >= 0.5, labels, partners(labels))
    return share * hot + (1 - share) * partners(hot), largest
