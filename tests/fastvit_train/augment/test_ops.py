"""Every operation against torchvision's on the same magnitudes, on photos and on noise."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from fastvit_train.augment.ops import channels, gaussian_blur, invert, pack
from fastvit_train.augment.policies import NUM_LEVELS, POLICIES

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}
THEIRS = {"randaugment": v2.RandAugment(), "trivial": v2.TrivialAugmentWide()}
SHARED = [name for name in NAMES if name != "invert"]
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


def both_signs(slot, theirs_row, signed):
    assert slot.signed == signed
    return torch.cat([theirs_row, -theirs_row]) if signed else torch.cat([theirs_row, theirs_row])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", sorted(THEIRS))
@pytest.mark.parametrize("name", sorted(SHARED))
def test_an_operation_is_torchvisions(images, device, policy, name):
    """Every level and sign, each on an image of its own, with torchvision's table of magnitudes."""
    height, width = images.shape[2:]
    (slots,) = POLICIES[policy](height, width)
    slot = next(slot for slot in slots if slot.operation.__name__ == name)
    magnitudes, signed = THEIRS[policy]._AUGMENTATION_SPACE[NAMES[name]]
    row = magnitudes(NUM_LEVELS, height, width)
    magnitude = both_signs(slot, torch.zeros(NUM_LEVELS) if row is None else row.float(), signed)
    expected = torch.stack(
        [
            THEIRS[policy]._apply_image_or_video_transform(image, NAMES[name], float(level), "nearest", {})
            for image, level in zip(images.to(device), magnitude, strict=True)
        ]
    )
    result = unpack(slot.operation(pack(images.to(device)), magnitude.to(device)))
    difference = (result.int() - expected.int()).abs()
    if name in ROUNDED:
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.01
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("policy", sorted(THEIRS))
def test_policies_have_torchvisions_operations_and_magnitudes(policy):
    (slots,) = POLICIES[policy](37, 45)
    assert [slot.operation.__name__ for slot in slots] == SHARED
    assert {NAMES[name] for name in SHARED} == set(THEIRS[policy]._AUGMENTATION_SPACE)
    for slot in slots:
        magnitudes, signed = THEIRS[policy]._AUGMENTATION_SPACE[NAMES[slot.operation.__name__]]
        row = magnitudes(NUM_LEVELS, 37, 45)
        expected = [0.0, 0.0] if row is None else [float(row[0]), float(row[-1])]
        assert [slot.weakest, slot.strongest] == pytest.approx(expected)
        assert slot.signed == signed


def test_autoaugment_has_torchvisions_pairs_chances_and_magnitudes():
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    first, second = POLICIES["autoaugment"](37, 45)
    for pair, expected in zip(zip(first, second, strict=True), theirs._policies, strict=True):
        for slot, (name, chance, level) in zip(pair, expected, strict=True):
            assert NAMES[slot.operation.__name__] == name
            assert slot.chance == chance
            magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
            row = magnitudes(10, 37, 45)
            magnitude = round(slot.strongest) if slot.whole else slot.strongest
            assert magnitude == pytest.approx(0.0 if row is None else float(row[level]))
            assert slot.weakest == slot.strongest
            assert slot.signed == signed


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
