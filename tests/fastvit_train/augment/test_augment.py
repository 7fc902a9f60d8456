"""Augmentation against torchvision's and torch's own operations."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from fastvit_train.augment import Augmentation, Rows, apply, augment, compiled_apply, draw, flip_and_shift, normalize
from fastvit_train.augment.mixing import inside
from fastvit_train.augment.ops import pack
from fastvit_train.augment.policies import POLICIES
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
    drawn = draw(config, index=torch.arange(50, device=device), resolution=9, epoch=0, generator=generator)
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


def seeded(device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def some_augmented(images, labels, config, generator):
    index = torch.arange(len(images), device=images.device)
    options = {"index": index, "epoch": 0, "num_classes": 4, "generator": generator, "dtype": torch.float32}
    return augment(images, labels, config, **options)


def test_no_augmentation_only_normalizes():
    config, images = AugmentConfig(), some_images(4)
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([3, 1, 0, 2])
    result = some_augmented(images, labels, config, generator)
    assert torch.equal(result.images, normalize(images, config, torch.float32))
    assert torch.equal(result.targets, labels)
    assert torch.equal(result.labels, labels)


def test_alternating_flips_show_every_image_both_ways():
    config = AugmentConfig(flip="alternating")
    index = torch.arange(20_000)
    flips = [
        draw(config, index=index, resolution=8, epoch=epoch, generator=torch.Generator()).flip for epoch in range(3)
    ]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2])
    assert abs(flips[0].float().mean() - 0.5) < 0.02
    for stride in (2, 10, 100):  # not aligned with datasets that are sorted or interleaved by class
        assert abs(flips[0][::stride].float().mean() - 0.5) < 0.05


def test_random_parameters_are_uniform():
    config = AugmentConfig(flip="random", shift=2)
    drawn = draw(config, index=torch.arange(50_000), resolution=8, epoch=0, generator=seeded())
    assert abs(drawn.flip.float().mean() - 0.5) < 0.02
    cells = torch.bincount(((drawn.shift[:, 0] + 2) * 5 + drawn.shift[:, 1] + 2), minlength=25)
    assert cells.min() > 2000 * 0.9
    assert cells.max() < 2000 * 1.1


def test_shift_moves_down_and_right():
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1
    shifted = flip_and_shift(image, Augmentation(torch.tensor([False]), torch.tensor([[2, 1]])))
    assert shifted[0, 0].nonzero().tolist() == [[5, 4]]


EVERYTHING = AugmentConfig(
    flip="random",
    shift=2,
    policy="randaugment",
    color_jitter=0.3,
    erasing_probability=0.5,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", [*POLICIES, "none"])
def test_everything_together(device, policy):
    images = some_images(20, 32, 32, device=device)
    labels = torch.arange(20, device=device) % 4
    config = replace(EVERYTHING, policy=policy)
    results = [some_augmented(images, labels, config, seeded(device)) for _ in range(2)]
    assert torch.equal(results[0].images, results[1].images), "all randomness comes from the generator"
    assert results[0].images.is_contiguous(memory_format=torch.channels_last)
    assert results[0].images.isfinite().all()
    assert results[0].targets.shape == (20, 4)
    assert torch.allclose(results[0].targets.sum(dim=1), torch.ones(20, device=device))
    assert torch.equal(results[0].targets.argmax(dim=1), results[0].labels)


def test_policies_start_from_flipped_and_shifted_images():
    config = replace(EVERYTHING, color_jitter=0.0, erasing_probability=0.0, mixup_alpha=0.0, cutmix_alpha=0.0)
    config = replace(config, magnitude=0, num_ops=1)
    images = some_images(28, 32, 32)
    drawn = draw(config, index=torch.arange(28), resolution=32, epoch=0, generator=seeded())
    result = apply(images, drawn, config, torch.float32)
    expected = normalize(flip_and_shift(images, drawn), config, torch.float32)
    # At magnitude 0 only solarize (of 255), autocontrast and equalize change images: three operations of 14.
    same = (result - expected).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert same.sum() >= 22


@pytest.mark.parametrize("policy", [*POLICIES, "none"])
def test_it_is_one_graph(policy):
    config = replace(EVERYTHING, policy=policy)
    images = some_images(15, 32, 32)
    drawn = draw(config, index=torch.arange(15), resolution=32, epoch=0, generator=seeded())
    one_graph = torch.compile(apply, fullgraph=True, dynamic=False, backend="eager")
    compiled, plain = (transform(images, drawn, config, torch.float32) for transform in (one_graph, apply))
    assert torch.allclose(compiled, plain, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("device", DEVICES)
def test_compiling_changes_nothing_but_rounding(device):
    config = AugmentConfig(policy="randaugment", num_ops=1, flip="random", shift=2)
    images = some_images(28, 32, 32, device=device)
    index = torch.arange(28, device=device)
    drawn = draw(config, index=index, resolution=32, epoch=0, generator=seeded(device))
    plain = apply(images, drawn, config, torch.float32)
    compiled = compiled_apply(images.device.type)(images, drawn, config, torch.float32)
    level = 1 / (255 * min(config.std))
    assert (compiled - plain).abs().max() < 1.01 * level
    assert ((compiled - plain).abs() > 0.01 * level).float().mean() < 1e-3


def test_each_kind_of_device_has_its_own_options(monkeypatch):
    options = {}
    monkeypatch.setattr(torch, "compile", lambda function, **given: (function, given["options"]))
    for device_type in ("cpu", "cuda"):
        options[device_type] = compiled_apply.__wrapped__(device_type)[1]
    assert options == {"cpu": {"realize_reads_threshold": 0}, "cuda": None}


def test_packing_keeps_the_channels_apart():
    images = some_images(2)
    assert torch.equal(pack(images)[1, 3, 4], (images[1, :, 3, 4].int() * torch.tensor([1, 256, 65536])).sum())


def test_erased_pixels_have_the_mean_colour():
    config = AugmentConfig(erasing_probability=1.0)
    images = some_images(6, 32, 32)
    drawn = draw(config, index=torch.arange(6), resolution=32, epoch=0, generator=seeded())
    result, plain = apply(images, drawn, config, torch.float32), normalize(images, config, torch.float32)
    erased = inside(drawn.erased, 32, 32)[:, None].expand_as(result)
    assert erased.any()
    assert (result[erased] == 0).all()
    assert torch.allclose(result[~erased], plain[~erased], atol=1e-5)


def test_ranks_draw_what_one_rank_draws_for_their_rows():
    """All but the operations of a policy, which are dealt out evenly to each rank's images."""
    config = AugmentConfig(
        flip="random",
        shift=2,
        policy="randaugment",
        color_jitter=0.3,
        erasing_probability=0.5,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )
    options = {"resolution": 32, "epoch": 0}
    alone = draw(config, index=torch.arange(16), generator=seeded(), **options)
    ranks = [
        draw(config, index=torch.arange(8), generator=seeded(), rows=Rows(rank, 8 * rank, 16), **options)
        for rank in range(2)
    ]
    for name in ("flip", "shift", "erased"):
        assert torch.equal(torch.cat([getattr(drawn, name) for drawn in ranks]), getattr(alone, name)), name
    for name in ("jitter", "mixing"):
        for whole, *parts in zip(getattr(alone, name), *(getattr(drawn, name) for drawn in ranks), strict=True):
            assert torch.equal(torch.cat(parts), whole), name
    first, second = (drawn.layers[0] for drawn in ranks)
    assert len(first.place) == len(second.place) == 8
    assert not torch.equal(first.place, second.place)
