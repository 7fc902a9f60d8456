"""Boxes of images of different sizes, resized to one size: in a few kernels for all of them, on any device.

Each output pixel is a weighted mean of pixels of its image, so a resize is two matmuls: with the weights of the columns
and with those of the rows. Mirroring and shifting only exchange columns or rows of the weights. The filters are those
of Pillow and torchvision, which round what is between the two to 8 bits; here it is only limited to their range.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders.crop import Crops, Interpolation
from loaders.uploads import upload

__all__ = ["box_resize"]

# float16 holds pixels exactly: only weights and sums are rounded, by 2^-11 of themselves at most. Around the middle,
# grey levels are numbers up to 128: each of the two matmuls then adds an error of 1/16 for its weights (3/32 for those
# of bicubic, some of which are negative) and 1/32 for its sums at most. So a pixel is at most 0.75 levels from the
# exact one, where 0.5 is what rounding to 8 bits costs.
_DTYPES = {"cpu": torch.float32, "cuda": torch.float16}

_MIDDLE = 128

# Tensor cores want rows of a multiple of 16 bytes.
_ALIGNMENT = 8

_SLICE_BYTES = 2**29
"""How much memory the images of one slice may take at work; a batch of larger ones is done in several."""


def box_resize(
    images: Sequence[Tensor],
    crops: Crops,
    *,
    resolution: int,
    interpolation: Interpolation,
    windows: NDArray[np.float64] | None = None,
) -> Tensor:
    """Cut a box out of each image, resize it, mirror it and shift it.

    Within 1 level of what torchvision makes of one image after the other.

    Args:
        images: uint8 [3, h, w] each, all on one device; of those that are not contiguous, a copy is made.
        crops: The boxes, flips and shifts, one for each image.
        resolution: Side of the result, in pixels.
        interpolation: The filter, antialiased.
        windows: float64 [b, 4], top, left, height, width in the pixels of the box: the part of it that becomes the
            result, of which the filter also sees what lies around; all of the box when not given.

    Returns:
        uint8 [b, resolution, resolution, 3], on the images' device. Nothing waits for it there.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from loaders.box_resize import box_resize
        >>> from loaders.crop import Crops
        >>> images = [torch.zeros(3, 60, 80, dtype=torch.uint8), torch.full((3, 50, 50), 9, dtype=torch.uint8)]
        >>> boxes = np.array([[10, 20, 40, 60], [0, 0, 50, 50]], np.int32)
        >>> crops = Crops(boxes, flips=np.array([True, False]), shifts=np.zeros((2, 2), np.int32))
        >>> resized = box_resize(images, crops, resolution=32, interpolation="bilinear")
        >>> resized.shape, resized[1].unique().tolist()
        (torch.Size([2, 32, 32, 3]), [9])
    """
    boxes, flips, shifts = crops
    if windows is None:
        windows = np.concatenate([np.zeros((len(boxes), 2)), boxes[:, 2:]], axis=1)
    parts = [
        _resize_slice(
            images[part],
            Crops(boxes[part], flips[part], shifts[part]),
            windows[part],
            resolution,
            _FILTERS[interpolation],
        )
        for part in _slices(boxes, resolution)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _slices(boxes: NDArray[np.int32], resolution: int) -> Iterator[slice]:
    """Runs of images that fit into the memory that is given to one slice; at least one image in each."""
    start = height = width = 0
    for number, (_, _, box_height, box_width) in enumerate(boxes.tolist()):
        height, width = max(height, box_height), max(width, box_width)
        pixels = 3 * height * width * 3  # as bytes, and as float16
        weights = 5 * 4 * resolution * max(height, width)  # what their filter needs at once, in float32
        if start < number and (number + 1 - start) * (pixels + weights) > _SLICE_BYTES:
            yield slice(start, number)
            start, height, width = number, box_height, box_width
    yield slice(start, len(boxes))


def _resize_slice(
    images: Sequence[Tensor],
    crops: Crops,
    windows: NDArray[np.float64],
    resolution: int,
    weigh: Callable[[Tensor], Tensor],
) -> Tensor:
    device = images[0].device
    dtype = _DTYPES[device.type]
    heights, widths = crops.boxes[:, 2], crops.boxes[:, 3]
    height, width = (-(-int(sides.max()) // _ALIGNMENT) * _ALIGNMENT for sides in (heights, widths))
    of_box = upload(np.stack([heights, widths, crops.flips, *crops.shifts.T]).astype(np.int64), device)
    box_heights, box_widths, flips, down, right = of_box[:, :, None]
    tops, lefts, window_heights, window_widths = upload(windows.T.astype(np.float32), device)[:, :, None]

    side = torch.arange(resolution, device=device)
    columns = _reflected(side - right, resolution)
    columns = torch.where(flips > 0, resolution - 1 - columns, columns)
    rows = _reflected(side - down, resolution)
    across = _weights(lefts, window_widths / resolution, columns, box_widths, width, weigh).to(dtype)
    along = _weights(tops, window_heights / resolution, rows, box_heights, height, weigh).to(dtype)

    pixels = _padded(images, crops.boxes, height, width).to(dtype).sub_(_MIDDLE)
    narrow = _limited(torch.bmm(pixels.view(len(images), height * 3, width), across.mT))
    small = _limited(torch.bmm(along, narrow.view(len(images), height, 3 * resolution)).round_())
    planes = small.add_(_MIDDLE).to(torch.uint8).view(len(images), resolution, 3, resolution)
    return planes.permute(0, 1, 3, 2).contiguous()


def _padded(images: Sequence[Tensor], boxes: NDArray[np.int32], height: int, width: int) -> Tensor:
    """What the boxes hold, uint8 [b, height, 3, width]; what is right of and below a box is of no meaning.

    The rows are gathered by where they begin, out of all windows of `width` bytes that the images' memory has.
    """
    device = images[0].device
    _, heights, widths = np.array([image.shape for image in images]).T
    planes = heights * widths
    begins = np.cumsum(3 * planes) - 3 * planes
    of_image = upload(np.stack([begins, planes, widths, *boxes.T[:3]]), device)
    begin, plane, stride, top, left, box_height = of_image[:, :, None, None]
    row = torch.minimum(torch.arange(height, device=device)[:, None], box_height - 1)
    starts = begin + torch.arange(3, device=device) * plane + (top + row) * stride + left

    memory = torch.cat([*(image.reshape(-1) for image in images), images[0].new_zeros(width)])
    windows = memory.as_strided((len(memory) - width + 1, width), (1, 1))
    return windows.index_select(0, starts.view(-1)).view(len(images), height, 3, width)


def _weights(
    starts: Tensor,
    scales: Tensor,
    outputs: Tensor,
    lengths: Tensor,
    padded: int,
    weigh: Callable[[Tensor], Tensor],
) -> Tensor:
    """How much each pixel of a line counts for each output, float32 [b, resolution, padded].

    Args:
        starts: float32 [b, 1], where on the lines the first output begins.
        scales: float32 [b, 1], how many pixels of a line one output is.
        outputs: int64 [b, resolution], which output of the resize comes where.
        lengths: int64 [b, 1], of the lines, in pixels.
        padded: How many pixels a line is padded to.
        weigh: The filter.
    """
    centers = starts + (outputs + 0.5) * scales
    pixels = torch.arange(padded, device=outputs.device)
    weights = weigh(((pixels + 0.5) - centers[:, :, None]) / scales.clamp(min=1)[:, :, None])
    weights *= pixels < lengths[:, :, None]
    return weights / weights.sum(-1, keepdim=True)


def _reflected(positions: Tensor, length: int) -> Tensor:
    """Positions around a line of pixels, each as the one that a mirror at the line's ends shows there."""
    return (length - 1) - ((length - 1) - positions.abs()).abs()


def _limited(levels: Tensor) -> Tensor:
    """Where the bicubic filter overshoots, the darkest or lightest level there is."""
    return levels.clamp_(-_MIDDLE, 255 - _MIDDLE)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


_FILTERS: dict[Interpolation, Callable[[Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}
