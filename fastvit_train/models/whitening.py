"""Filters that whiten: their outputs are uncorrelated and of unit power on the images that they were made from."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["whitening_filters"]

_NOISE_POWER = 5e-4  # added to every component's power, so that noise is not blown up


@torch.no_grad()
def whitening_filters(images: Tensor, *, side: int, stride: int) -> Tensor:
    """The principal components of the images' patches, each divided by its deviation; source: arXiv 2404.00498.

    Args:
        images: Normalised floats [n, c, h, w], as the model will get them; some hundred are plenty.
        side: Side of a patch in pixels.
        stride: Distance of the patches.

    Returns:
        float32 [c * side * side, c, side, side].
    """
    patches = F.unfold(images.float(), side, stride=stride).transpose(1, 2).flatten(0, 1)
    power, components = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters: Tensor = components.T / (power[:, None] + _NOISE_POWER).sqrt()
    return filters.view(-1, images.shape[1], side, side)
