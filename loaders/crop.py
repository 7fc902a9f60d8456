"""Crop boxes, flips and shifts as pure functions of (seed, epoch, index), the same for every backend."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders import _native

__all__ = ["Crop", "Crops", "Interpolation", "crop_boxes", "random_flips", "random_shifts"]

Interpolation = Literal["bilinear", "bicubic"]
"""The filters of a resize, both antialiased."""

Crop = Literal["random_resized", "center", "whole", "shift"]


class Crops(NamedTuple):
    """What is cut out of each image of a batch, and what is done with it: see `LoaderConfig.crops`, which makes them.

    Examples:
        By hand, what a loader does with the boxes and flips:

        >>> import numpy as np
        >>> from loaders import LoaderConfig
        >>> image = np.zeros((256, 320, 3), np.uint8)
        >>> config = LoaderConfig(batch_size=1, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> one = np.array([0])
        >>> boxes, flips, _ = config.crops(one, heights=one + 256, widths=one + 320, epoch=0)
        >>> top, left, height, width = boxes[0]
        >>> cut = image[top : top + height, left : left + width]
        >>> cut = cut[:, ::-1] if flips[0] else cut
        >>> cut.shape == (height, width, 3)
        True
    """

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
        indices: int64 [n], positions in the dataset, or `BatchPlan`'s samples of images that repeat.
        heights: int64 [n], in pixels.
        widths: int64 [n], in pixels.
        seed: The run's seed.
        epoch: The epoch; other epochs draw other boxes.
        area: Smallest and largest share of the image's area, for `random_resized`.
        ratio: Smallest and largest width / height, for `random_resized`.
        center_fraction: Share of the short side, for `center`.

    Returns:
        int32 [n, 4]: top, left, height, width in pixels, all inside the image.

    Raises:
        FastvitError: A height or width is not positive, with `random_resized`.

    Examples:
        >>> import numpy as np
        >>> from loaders.crop import crop_boxes
        >>> crop_boxes(
        ...     "center",
        ...     indices=np.array([0]),
        ...     heights=np.array([256]),
        ...     widths=np.array([320]),
        ...     seed=0,
        ...     epoch=0,
        ...     area=(0.08, 1.0),
        ...     ratio=(3 / 4, 4 / 3),
        ...     center_fraction=0.875,
        ... )
        array([[ 16,  48, 224, 224]], dtype=int32)
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
    """Whether each sample of a `random_resized` or `shift` epoch is mirrored left to right, as half of them are.

    Args:
        indices: int64 [n], positions in the dataset, or `BatchPlan`'s samples of images that repeat.
        seed: The run's seed.
        epoch: The epoch.

    Returns:
        bool [n].

    Examples:
        >>> import numpy as np
        >>> from loaders.crop import random_flips
        >>> flips = random_flips(indices=np.arange(1000), seed=0, epoch=0)
        >>> flips.dtype, 450 < int(flips.sum()) < 550
        (dtype('bool'), True)
    """
    return _native.random_flips(indices, seed, epoch)


def random_shifts(*, indices: NDArray[np.int64], seed: int, epoch: int, max_shift: int) -> NDArray[np.int32]:
    """By how many pixels each sample of a `shift` epoch moves down and to the right.

    Args:
        indices: int64 [n], positions in the dataset, or `BatchPlan`'s samples of images that repeat.
        seed: The run's seed.
        epoch: The epoch.
        max_shift: The largest shift, in pixels.

    Returns:
        int32 [n, 2], each uniform in [-max_shift, max_shift].

    Examples:
        >>> import numpy as np
        >>> from loaders.crop import random_shifts
        >>> shifts = random_shifts(indices=np.arange(1000), seed=0, epoch=0, max_shift=4)
        >>> shifts.shape, int(shifts.min()), int(shifts.max())
        ((1000, 2), -4, 4)
    """
    return _native.random_shifts(indices, seed, epoch, max_shift)
