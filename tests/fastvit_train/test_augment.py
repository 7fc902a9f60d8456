"""Augmentation against torchvision's and torch's own operations."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from fastvit_train.augment import Augmentation, augment, draw, flip_and_shift, normalize
from fastvit_train.config import AugmentConfig

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def some_images(num_images: int, height: int = 9, width: int = 12, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num_images, 3, height, width), dtype=torch.uint8, generator=generator)
    return images.to(device).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", DEVICES)
def test_flip_and_shift_equal_padding_and_cropping(device):
    images = some_images(50, device=device)
    generator = torch.Generator(device).manual_seed(1)
    config = AugmentConfig(flip="random", shift=3)
    drawn = draw(config, index=torch.arange(50, device=device), epoch=0, generator=generator)
    result = flip_and_shift(images, drawn)
    assert result.dtype == torch.uint8
    assert result.is_contiguous(memory_format=torch.channels_last)
    for image, changed, flip, (down, right) in zip(images, result, drawn.flip, drawn.shift.tolist(), strict=True):
        mirrored = transforms.horizontal_flip(image) if flip else image
        padded = F.pad(mirrored.float()[None], (3, 3, 3, 3), mode="reflect")[0]
        expected = padded[:, 3 - down : 12 - down, 3 - right : 15 - right]
        assert torch.equal(changed.float(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_normalize_equals_torchvisions(device):
    config = AugmentConfig(mean=(0.1, 0.5, 0.4), std=(0.3, 0.2, 0.25))
    images = some_images(4, device=device)
    expected = transforms.normalize(images.float() / 255, list(config.mean), list(config.std))
    assert torch.allclose(normalize(images, config, torch.float32), expected, atol=1e-5)
    assert normalize(images, config, torch.bfloat16).dtype == torch.bfloat16


def test_no_augmentation_only_normalizes():
    config, images = AugmentConfig(), some_images(4)
    generator = torch.Generator().manual_seed(0)
    result = augment(images, config, index=torch.arange(4), epoch=0, generator=generator, dtype=torch.float32)
    assert torch.equal(result, normalize(images, config, torch.float32))


def test_alternating_flips_show_every_image_both_ways():
    config = AugmentConfig(flip="alternating")
    index = torch.arange(20_000)
    flips = [draw(config, index=index, epoch=epoch, generator=torch.Generator()).flip for epoch in range(3)]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2])
    assert abs(flips[0].float().mean() - 0.5) < 0.02
    for stride in (2, 10, 100):  # not aligned with datasets that are sorted or interleaved by class
        assert abs(flips[0][::stride].float().mean() - 0.5) < 0.05


def test_random_parameters_are_uniform():
    config = AugmentConfig(flip="random", shift=2)
    drawn = draw(config, index=torch.arange(50_000), epoch=0, generator=torch.Generator().manual_seed(0))
    assert abs(drawn.flip.float().mean() - 0.5) < 0.02
    cells = torch.bincount(((drawn.shift[:, 0] + 2) * 5 + drawn.shift[:, 1] + 2), minlength=25)
    assert cells.min() > 2000 * 0.9
    assert cells.max() < 2000 * 1.1


def test_shift_moves_down_and_right():
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1
    shifted = flip_and_shift(image, Augmentation(torch.tensor([False]), torch.tensor([[2, 1]])))
    assert shifted[0, 0].nonzero().tolist() == [[5, 4]]
