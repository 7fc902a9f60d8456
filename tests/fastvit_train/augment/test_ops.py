"""Every operation against torchvision's on the same magnitudes, on photos and on noise."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from fastvit_train.augment.ops import channels, gaussian_blur, invert, pack
from fastvit_train.augment.policies import NUM_LEVELS, POLICIES

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

# Where up to 1 % of the values may be one level apart, as floats are summed in another order or fused; all other
# operations give the same bits.
ROUNDED = {"brightness", "color", "contrast", "sharpness"}


def unpack(images):
    return torch.stack(channels(images), dim=1).to(torch.uint8)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """uint8 [62, 3, 37, 45]: pieces of photos, noise, a flat image and a nearly flat one.

    Both sides are odd: turned by 90 degrees, no pixel's center lies halfway between two others, where rounding errors
    decide.
    """
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(photo.copy()).permute(2, 0, 1) for photo in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    pieces = [
        photos[number % 2][:, top : top + 37, left : left + 45]
        for number, (top, left) in enumerate(torch.randint(380, (50, 2), generator=generator).tolist())
    ]
    noise = torch.randint(256, (10, 3, 37, 45), dtype=torch.uint8, generator=generator)
    flat = torch.full((2, 3, 37, 45), 77, dtype=torch.uint8)
    flat[1, :, 5, 5] = torch.tensor([78, 0, 255], dtype=torch.uint8)
    return torch.cat([torch.stack(pieces), noise, flat])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", ["randaugment", "trivial"])
@pytest.mark.parametrize("name", [slot.operation.__name__ for slot in POLICIES["trivial"](37, 45)[0]])
def test_an_operation_is_torchvisions(images, torchvisions, device, policy, name):
    """Every level and sign, each on its own image."""
    (slots,) = POLICIES[policy](*images.shape[2:])
    slot = next(slot for slot in slots if slot.operation.__name__ == name)
    levels = torch.linspace(slot.weakest, slot.strongest, NUM_LEVELS)
    magnitude = torch.cat([levels, -levels if slot.signed else levels])
    pairs = zip(images.to(device), magnitude.tolist(), strict=True)
    expected = torch.stack([torchvisions[name](image, level) for image, level in pairs])
    result = unpack(slot.operation(pack(images.to(device)), magnitude.to(device)))
    difference = (result.int() - expected.int()).abs()
    if name in ROUNDED:
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.01
    else:
        assert (difference.amax(dim=1).cpu() * ~halfway(name, magnitude, images)).max() == 0


def halfway(name: str, magnitude: Tensor, images: Tensor) -> Tensor:
    """Which pixels a shear takes from exactly between two others: bool [n, h, w], less than 2 %.

    Either of the two is right: rounding errors decide, which depend on the processor.
    """
    height, width = images.shape[2:]
    halves = torch.zeros(len(images), height, width, dtype=torch.bool)
    if name in ("shear_x", "shear_y"):
        line = torch.arange(height if name == "shear_x" else width) + 0.5
        moved = magnitude.double()[:, None] * line
        tied = (moved % 1 - 0.5).abs() < 1e-4
        halves |= tied[:, :, None] if name == "shear_x" else tied[:, None, :]
    assert halves.float().mean() < 0.02
    return halves


def test_invert_is_torchvisions(images):
    assert torch.equal(unpack(invert(pack(images), torch.zeros(len(images)))), transforms.invert(images))


@pytest.mark.parametrize("device", DEVICES)
def test_blur_is_torchvisions(images, device):
    sigma = torch.linspace(0.1, 2, len(images))
    expected = torch.stack(
        [
            transforms.gaussian_blur(image, [13, 13], [float(s)])
            for image, s in zip(images.to(device), sigma, strict=True)
        ]
    )
    result = unpack(gaussian_blur(pack(images.to(device)), sigma.to(device)))
    difference = (result.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_three_is_grey_solarized_or_blurred(images):
    ((grey, solarized, _),) = POLICIES["three"](37, 45)
    pixels, ones = pack(images), torch.ones(len(images))
    expected = transforms.rgb_to_grayscale(images, num_output_channels=3)
    assert torch.equal(unpack(grey.operation(pixels, ones * grey.weakest)), expected)
    expected = transforms.solarize(images, 128)
    assert torch.equal(unpack(solarized.operation(pixels, ones * solarized.weakest)), expected)
