"""Image operations on batches, with a magnitude for each image: those of RandAugment and its kin.

A pixel is one int32 with red in the lowest byte, then green and blue: a gather then moves whole pixels, and arithmetic
fills vector registers whatever the number of channels. Every operation takes images int32 [n, h, w] and magnitudes
float32 [n], and gives images of the same shape; the formulas, and the magnitudes' meaning, are those of torchvision's
`v2.RandAugment` for uint8 tensors, rounding included: nearest neighbours, and black where nothing is. Brightness,
colour, contrast, sharpness and blur may be one level off in a few pixels, as floats are added in another order; the
others have the same bits, but where the source of a pixel lies exactly between two others. Sides are at least 3 pixels,
for the blur at least 7.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Operation",
    "autocontrast",
    "blend",
    "brightness",
    "channels",
    "color",
    "contrast",
    "equalize",
    "gaussian_blur",
    "gray",
    "identity",
    "invert",
    "pack",
    "posterize",
    "rotate",
    "sharpness",
    "shear_x",
    "shear_y",
    "solarize",
    "translate_x",
    "translate_y",
]

Operation = Callable[[Tensor, Tensor], Tensor]

_BLUR_RADIUS = 6
"""In pixels: three times the largest standard deviation of 3-Augment."""


def pack(images: Tensor) -> Tensor:
    """Turn uint8 [b, 3, h, w] into int32 [b, h, w]."""
    return _pack(images.int().unbind(1))


def channels(images: Tensor) -> list[Tensor]:
    """Red, green and blue of images int32 [n, h, w]: int32 of the same shape, 0 to 255."""
    return [images >> shift & 255 for shift in (0, 8, 16)]


def _pack(planes: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    red, green, blue = planes
    return red | green << 8 | blue << 16


def identity(images: Tensor, _: Tensor) -> Tensor:
    """Leave the images as they are."""
    return images


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Move each row by `slope` times its distance from the top, to the left where that is positive."""
    return _affine(images, (1, slope, slope * (images.shape[1] / 2)), (0, 1, 0))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Move each column by `slope` times its distance from the left, upwards where that is positive."""
    return _affine(images, (1, 0, 0), (slope, 1, slope * (images.shape[2] / 2)))


def translate_x(images: Tensor, distance: Tensor) -> Tensor:
    """Move to the right by `distance` pixels, rounded towards zero."""
    return _affine(images, (1, 0, -distance.trunc()), (0, 1, 0))


def translate_y(images: Tensor, distance: Tensor) -> Tensor:
    """Move down by `distance` pixels, rounded towards zero."""
    return _affine(images, (1, 0, 0), (0, 1, -distance.trunc()))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the center."""
    radians = degrees * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    return _affine(images, (cos, -sin, 0), (sin, cos, 0))


_Row = tuple[Tensor | float, Tensor | float, Tensor | float]


def _affine(images: Tensor, to_x: _Row, to_y: _Row) -> Tensor:
    """Take each pixel at (x, y) from (to_x · (x, y, 1), to_y · (x, y, 1)), in pixels from the center."""
    num_images, height, width = images.shape
    device = images.device
    x = torch.arange(width, device=device) - (width - 1) / 2
    y = (torch.arange(height, device=device) - (height - 1) / 2)[:, None]
    column, row = _source(to_x, x, y, width), _source(to_y, x, y, height)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    first = torch.arange(num_images, device=device, dtype=torch.int32)[:, None, None] * (height * width)
    position = first + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    pixels = images.flatten().index_select(0, position.flatten()).view(images.shape)
    return torch.where(inside, pixels, 0)


def _source(weights: _Row, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Rounded coordinates, int32 [n, h, w]; computed as `grid_sample` does, so that halves are rounded alike."""
    a, b, c = (weight[:, None, None] if isinstance(weight, Tensor) else weight for weight in weights)
    half = side / 2
    grid = x * (a / half) + y * (b / half) + c / half
    return (((grid + 1) * side - 1) / 2).round().int()


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Multiply by 1 + `magnitude`."""
    return blend(images, 0, magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Move away from grey: -1 is a grey image, 0 the same image."""
    return blend(images, gray(images), magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Move away from the image's mean grey: -1 is one shade of grey, 0 the same image."""
    return blend(images, gray(images).mean(dim=(1, 2), keepdim=True), magnitude)


def gray(images: Tensor) -> Tensor:
    """Luminance: float32 [n, h, w], whole numbers from 0 to 255."""
    red, green, blue = channels(images)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor()


def blend(images: Tensor, other: Tensor | float, magnitude: Tensor) -> Tensor:
    """Go from `other` (float, broadcast to [n, h, w]) through the images, and beyond for a positive magnitude."""
    magnitude = magnitude[:, None, None]
    return _pack([_to_level(channel * (1 + magnitude) + other * -magnitude) for channel in channels(images)])


def _to_level(values: Tensor) -> Tensor:
    return values.clamp(0, 255).int()


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits, a whole number from 0 to 8, of each channel."""
    mask = 255 << (8 - bits.int()) & 255
    return images & (mask * 0x010101)[:, None, None]


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Take the opposite of each channel."""
    return images ^ 0xFFFFFF


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at least `threshold`, a share of the highest value."""
    level = (255 * threshold)[:, None, None]
    return _pack([torch.where(channel >= level, 255 - channel, channel) for channel in channels(images)])


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to the whole range; one that has a single value stays as it is."""
    return _pack([_stretch(channel.float()) for channel in channels(images)])


def _stretch(channel: Tensor) -> Tensor:
    low, high = channel.amin(dim=(1, 2), keepdim=True), channel.amax(dim=(1, 2), keepdim=True)
    flat = low == high
    return _to_level((channel - torch.where(flat, 0, low)) / torch.where(flat, 1, (high - low) * (1 / 255)))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Make the values of each channel equally frequent, as Pillow does; one that has hardly any stays as it is."""
    planes = [channel.flatten(1).long() for channel in channels(images)]
    tables = _equalizing(torch.stack([_histogram(plane) for plane in planes]))
    return _pack([tables[number].gather(1, plane).view(images.shape) for number, plane in enumerate(planes)])


def _histogram(plane: Tensor) -> Tensor:
    """How often each value occurs: int32 [n, 256] for int64 [n, pixels]."""
    one = torch.ones((), dtype=torch.int32, device=plane.device)
    counts = torch.zeros((len(plane), 256), dtype=torch.int32, device=plane.device)
    return counts.scatter_add(1, plane, one.expand_as(plane))


def _equalizing(counts: Tensor) -> Tensor:
    """What becomes of each value: int32 [..., 256], as the histograms."""
    below = counts.cumsum(-1, dtype=torch.int32) - counts
    step = torch.where(counts > 0, below, 0).amax(-1, keepdim=True) // 255  # Pillow leaves the highest value out
    same = torch.arange(256, dtype=torch.int32, device=counts.device)
    return torch.where(step > 0, ((below + step // 2) // step.clamp(min=1)).clamp(max=255), same)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Move away from the image smoothed over 3 x 3 pixels; the border stays as it is."""
    return _pack([_sharpen(channel.float(), magnitude[:, None, None]) for channel in channels(images)])


def _sharpen(channel: Tensor, magnitude: Tensor) -> Tensor:
    height, width = channel.shape[1:]
    rows = channel[:, :-2] + channel[:, 1:-1] + channel[:, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = F.pad(((around + 4 * channel[:, 1:-1, 1:-1]) / 13).round(), (1, 1, 1, 1))
    row = torch.arange(height, device=channel.device)[:, None]
    column = torch.arange(width, device=channel.device)
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    return _to_level(torch.where(inner, channel - magnitude * (smooth - channel), channel))


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Smooth with a Gaussian of `sigma` pixels, cut off at 6; beyond the border lies the reflected image."""
    distance = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    weights = (-0.5 * (distance / sigma[:, None]) ** 2).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    padding = (_BLUR_RADIUS,) * 4
    padded = [F.pad(channel.float(), padding, mode="reflect") for channel in channels(images)]
    return _pack([_smooth(_smooth(channel, weights, 1), weights, 2).round().int() for channel in padded])


def _smooth(channel: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Average float [n, h, w] along `dim` with weights [n, taps]; it gets shorter by taps - 1."""
    num_taps = weights.shape[1]
    length = channel.shape[dim] - num_taps + 1
    result = channel.narrow(dim, 0, length) * weights[:, 0, None, None]
    for tap in range(1, num_taps):
        result = result + channel.narrow(dim, tap, length) * weights[:, tap, None, None]
    return result
