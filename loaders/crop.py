"""Crop boxes, flips and shifts as pure functions of (seed, epoch, index), the same for every backend."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders import _native

__all__ = ["Crop", "Crops", "crop_boxes", "random_flips", "random_shifts"]

Crop = Literal["random_resized", "center", "whole", "shift"]


class Crops(NamedTuple):
    """What is cut out of each image of a batch."""

    boxes: NDArray[np.int32]
    """int32 [b, 4]: top, left, height, width."""
    flips: NDArray[np.bool_]
    """bool [b]: whether to mirror what the box holds left to right."""
    shifts: NDArray[np.int32]
    """int32 [b, 2]: by how many pixels to move the finished image down and to the right; the border is reflected."""


def crop_boxes(
    crop: Crop,
    *,
    indices: NDArray[np.int64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    seed: int,
    epoch: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    center_fraction: float,
) -> NDArray[np.int32]:
    """The part of each image that is resized to the loader's resolution.

    Args:
        crop: `random_resized` draws boxes as torchvision's RandomResizedCrop does, from Philox 4x32-10 (the boxes are
            the same on every machine up to the last bit of its `exp`); `center` is the centred square of
            `center_fraction` of the short side, which is what resizing the short side and then cropping the centre
            keeps, to the nearest pixel; `whole` and `shift` take the whole image.
        indices: int64 [n], positions in the dataset.
        heights: int64 [n], in pixels.
        widths: int64 [n], in pixels.
        seed: The run's seed.
        epoch: The epoch; other epochs draw other boxes.
        area: Smallest and largest share of the image's area, for `random_resized`.
        ratio: Smallest and largest width / height, for `random_resized`.
        center_fraction: Share of the short side, for `center`.

    Returns:
        int32 [n, 4]: top, left, height, width, all inside the image.
    """
    if crop == "random_resized":
        return _native.random_resized_crops(indices, heights, widths, seed, epoch, area, ratio)
    if crop == "center":
        side = np.maximum(1, np.rint(np.minimum(heights, widths) * center_fraction))
        columns = [(heights - side) // 2, (widths - side) // 2, side, side]
    else:
        columns = [np.zeros_like(heights), np.zeros_like(widths), heights, widths]
    boxes: NDArray[np.int32] = np.stack(columns, axis=1).astype(np.int32)
    return boxes


def random_flips(*, indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.bool_]:
    """Whether each sample of a `random_resized` or `shift` epoch is mirrored left to right: bool [n], half of them."""
    return _native.random_flips(indices, seed, epoch)


def random_shifts(*, indices: NDArray[np.int64], seed: int, epoch: int, max_shift: int) -> NDArray[np.int32]:
    """By how many pixels each sample of a `shift` epoch moves down and to the right.

    Returns:
        int32 [n, 2], each uniform in [-max_shift, max_shift].
    """
    return _native.random_shifts(indices, seed, epoch, max_shift)
