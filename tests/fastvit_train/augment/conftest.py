"""torchvision's operations, by its public functions, under the names that ours have."""

import math
from collections.abc import Callable

import pytest
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

NEAREST = InterpolationMode.NEAREST


def _affine(image: Tensor, *, translate: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Tensor:
    center = None if shear == (0, 0) else [0, 0]  # the policies shear about the upper left corner
    return transforms.affine(
        image, angle=0, translate=list(translate), scale=1, shear=list(shear), interpolation=NEAREST, center=center
    )


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, slope: _affine(image, shear=(math.degrees(math.atan(slope)), 0)),
    "shear_y": lambda image, slope: _affine(image, shear=(0, math.degrees(math.atan(slope)))),
    "translate_x": lambda image, distance: _affine(image, translate=(int(distance), 0)),
    "translate_y": lambda image, distance: _affine(image, translate=(0, int(distance))),
    "rotate": lambda image, degrees: transforms.rotate(image, degrees, interpolation=NEAREST),
    "brightness": lambda image, magnitude: transforms.adjust_brightness(image, 1 + magnitude),
    "color": lambda image, magnitude: transforms.adjust_saturation(image, 1 + magnitude),
    "contrast": lambda image, magnitude: transforms.adjust_contrast(image, 1 + magnitude),
    "sharpness": lambda image, magnitude: transforms.adjust_sharpness(image, 1 + magnitude),
    "posterize": lambda image, bits: transforms.posterize(image, int(bits)),
    "solarize": lambda image, threshold: transforms.solarize(image, 255 * threshold),
    "autocontrast": lambda image, _: transforms.autocontrast(image),
    "equalize": lambda image, _: transforms.equalize(image),
    "invert": lambda image, _: transforms.invert(image),
}


@pytest.fixture(scope="session")
def torchvisions() -> dict[str, Callable[[Tensor, float], Tensor]]:
    """The operations by name: each takes an image uint8 [3, h, w] and a magnitude as our operations do."""
    return OPERATIONS
