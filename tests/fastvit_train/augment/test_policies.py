"""What the policies draw, and that their layers follow each other as in torchvision."""

import pytest
import torch
from torchvision.transforms import v2

from fastvit_train.augment.ops import channels, pack
from fastvit_train.augment.policies import (
    NUM_LEVELS,
    POLICIES,
    Jitter,
    apply_jitter,
    apply_layers,
    by_operation,
    draw_jitter,
    draw_layers,
)
from fastvit_train.config import AugmentConfig


def some_images(num_images: int, side: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_images, 3, side, side), dtype=torch.uint8, generator=generator)


def unpack(images):
    return torch.stack(channels(images), dim=1).to(torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slots_of(layer, num_slots):
    """The slot of each image."""
    return layer.place // (len(layer.source) // num_slots)


@pytest.mark.parametrize("num_images", [1, 5, 30, 256])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_operation_gets_its_share_of_a_batch(policy, num_images):
    """Shares differ by what a batch of that size allows, and over many batches each image gets each operation alike."""
    num_slots, num_draws = len(POLICIES[policy](20, 20)[0]), 600
    config = AugmentConfig(policy=policy, num_ops=1)
    generator = seeded()
    counts = torch.zeros(num_images, num_slots)
    for _ in range(num_draws):
        layer = draw_layers(config, (num_images, 20, 20), generator)[0]
        assert torch.equal(layer.source[layer.place], torch.arange(num_images))
        slot = slots_of(layer, num_slots)
        assert torch.bincount(slot).max() <= -(-num_images // num_slots)
        counts[torch.arange(num_images), slot] += 1
    expected = num_draws / num_slots
    # For one image 5 standard deviations, for the batch 1/30 of the share.
    assert (counts - expected).abs().max() < 5 * expected**0.5
    if num_images > 100:
        assert (counts.mean(dim=0) / expected - 1).abs().max() < 1 / 30


def test_layers_are_drawn_independently():
    config, pairs = AugmentConfig(policy="randaugment", num_ops=2), torch.zeros(14, 14)
    generator = seeded()
    for _ in range(100):
        first, second = draw_layers(config, (280, 20, 20), generator)
        pairs.index_put_((slots_of(first, 14), slots_of(second, 14)), torch.ones(()), accumulate=True)
    expected = 100 * 280 / 14**2
    assert (pairs - expected).abs().max() < 5 * expected**0.5


def test_trivial_draws_all_levels_and_both_signs():
    (slots,) = POLICIES["trivial"](20, 20)
    layers = [draw_layers(AugmentConfig(policy="trivial"), (14 * 500, 20, 20), seeded(seed))[0] for seed in range(4)]
    magnitude = torch.stack([layer.magnitude.view(14, 500) for layer in layers], dim=1).flatten(1)
    for slot, drawn in zip(slots, magnitude, strict=True):
        values, counts = drawn.unique(return_counts=True)
        if slot.whole:
            assert values.tolist() == [2, 3, 4, 5, 6, 7, 8]
        elif slot.signed:
            assert len(values) == 2 * NUM_LEVELS - 1
            assert torch.allclose(values, -values.flip(0))
            assert abs((drawn > 0).sum() - (drawn < 0).sum()) < 5 * 2000**0.5
        elif slot.weakest != slot.strongest:
            assert len(values) == NUM_LEVELS
            assert (counts - 2000 / NUM_LEVELS).abs().max() < 5 * (2000 / NUM_LEVELS) ** 0.5
        else:
            assert values.tolist() == [0]


def test_randaugment_has_one_strength_and_both_signs():
    (layer,) = draw_layers(AugmentConfig(policy="randaugment", num_ops=1, magnitude=10), (14 * 400, 20, 20), seeded())
    shear = layer.magnitude.view(14, 400)[1]
    assert shear.abs().unique().tolist() == pytest.approx([0.1])
    assert abs((shear > 0).sum() - 200) < 5 * 10


def test_layers_follow_each_other_as_in_torchvision():
    """Three layers with torchvision's operations one after another on the same draw: the same up to rounding."""
    images = some_images(42)
    layers = draw_layers(AugmentConfig(policy="randaugment", num_ops=3), (42, 20, 20), seeded())
    theirs = v2.RandAugment()
    names = list(theirs._AUGMENTATION_SPACE)  # in the order of the slots, but that sharpness comes before posterize
    expected = []
    for number, image in enumerate(images):
        for layer in layers:
            place = layer.place[number]
            name = names[place // 3]
            image = theirs._apply_image_or_video_transform(image, name, float(layer.magnitude[place]), "nearest", {})
        expected.append(image)
    difference = (unpack(apply_layers(pack(images), layers, "randaugment")).int() - torch.stack(expected).int()).abs()
    # A rounding error may be stretched by what follows it, up to equalize.
    assert (difference > 0).float().mean() < 0.01


def test_autoaugment_gives_an_image_a_pair_of_torchvisions_each_operation_with_its_chance():
    """Both layers with torchvision's operations on the same draw: the same up to rounding; and how often each comes."""
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    images, share = some_images(25 * 3), 3
    slots = POLICIES["autoaugment"](20, 20)
    orders = [torch.tensor([number for _, numbers in by_operation(row) for number in numbers]) for row in slots]
    generator, counts, num_draws = seeded(), torch.zeros(2, 25), 400
    for draw in range(num_draws):
        layers = draw_layers(AugmentConfig(policy="autoaugment"), (75, 20, 20), generator)
        first, second = (order[slots_of(layer, 25)] for layer, order in zip(layers, orders, strict=True))
        assert torch.equal(first, second)
        for layer, count in zip(layers, counts, strict=True):
            count.index_add_(0, first, layer.applied[layer.place].float())
        if draw > 3:  # torchvision's operations, image by image, take long
            continue
        expected = []
        for number, image in enumerate(images):
            for layer, (name, _, _) in zip(layers, theirs._policies[first[number]], strict=True):
                place = layer.place[number]
                if layer.applied[place]:
                    level = float(layer.magnitude[place])
                    image = theirs._apply_image_or_video_transform(image, name, level, "nearest", {})
            expected.append(image)
        result = unpack(apply_layers(pack(images), layers, "autoaugment"))
        assert ((result.int() - torch.stack(expected).int()).abs() > 0).float().mean() < 0.01
    chances = torch.tensor([[slot.chance for slot in row] for row in slots])
    num_dealt = share * num_draws
    assert (counts / num_dealt - chances).abs().max() < 5 * (0.25 / num_dealt) ** 0.5
    assert (counts[chances == 0] == 0).all()


def test_jitter_is_torchvisions_color_jitter(monkeypatch):
    images = some_images(12)
    jitter = draw_jitter(0.3, 12, seeded())
    theirs = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)
    names = ("brightness_factor", "contrast_factor", "saturation_factor")
    for number, image in enumerate(images):
        order, factors = jitter.order[number].tolist(), (1 + jitter.magnitude[number]).tolist()
        drawn = {names[which]: factor for which, factor in zip(order, factors, strict=True)}
        expected = theirs.transform(image, {"fn_idx": torch.tensor([*order, 3]), "hue_factor": None, **drawn})
        result = unpack(apply_jitter(pack(image[None]), Jitter(*(part[number][None] for part in jitter))))[0]
        difference = (result.int() - expected.int()).abs()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.02


def test_jitter_is_uniform_in_strength_and_order():
    jitter = draw_jitter(0.3, 12_000, seeded())
    assert jitter.magnitude.min() > -0.3
    assert jitter.magnitude.max() < 0.3
    assert (torch.histc(jitter.magnitude, bins=10, min=-0.3, max=0.3) / 3600 - 1).abs().max() < 0.1
    counts = torch.bincount(jitter.order @ torch.tensor([9, 3, 1]))
    assert (counts[counts > 0] / 2000 - 1).abs().max() < 0.12
    assert (counts > 0).sum() == 6
