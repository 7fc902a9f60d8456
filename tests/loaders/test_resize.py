"""The engine's resize against torch's, which calculates with floating-point numbers."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from loaders import _native


def exact(pixels: NDArray[np.uint8], side: int, interpolation: str) -> NDArray[np.float64]:
    image = torch.from_numpy(pixels).double().permute(2, 0, 1)[None]
    made = interpolate(image, (side, side), mode=interpolation, antialias=True, align_corners=False)
    return made[0].permute(1, 2, 0).clamp(0, 255).numpy()


def resized(pixels: NDArray[np.uint8], side: int, interpolation: str) -> NDArray[np.uint8]:
    rule = {"area": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "center_fraction": 0.875, "max_shift": 0}
    whole = _native.CropRule("whole", resolution=side, seed=0, epoch=0, interpolation=interpolation, **rule)
    return _native.crop_pixels(pixels, 0, whole)


def ramp_with_a_bar(length: int) -> NDArray[np.uint8]:
    pixels = np.linspace(0, 255, length).astype(np.uint8)
    pixels[length // 2 - length // 16 : length // 2 + length // 16] = 255
    return np.broadcast_to(pixels[None, :, None], (2, length, 3))


def noise(length: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(256, size=(2, length, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("pattern", [ramp_with_a_bar, noise])
@pytest.mark.parametrize("length", [50, 1000, 8000, 20_000, 40_000, 65_500])
def test_any_length_shrinks_to_a_few_pixels(length, pattern, interpolation):
    """Where 32,768 pixels become one, the weight of none of them is half of the smallest number that there is."""
    long = np.ascontiguousarray(pattern(length))
    for pixels in (long, np.ascontiguousarray(long.transpose(1, 0, 2))):
        for side in (1, 2):
            difference = np.abs(resized(pixels, side, interpolation) - exact(pixels, side, interpolation))
            assert difference.max() < 2, f"{pixels.shape} to {side}"
