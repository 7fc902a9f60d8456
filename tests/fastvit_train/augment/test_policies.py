"""What the policies draw, and that their layers follow each other as in torchvision."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from fastvit_train.augment.ops import channels, pack
from fastvit_train.augment.policies import (
    NUM_LEVELS,
    POLICIES,
    Jitter,
    Slot,
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


# Of torchvision's transforms, and the levels of ours that they draw from.
THEIRS = {
    "randaugment": (v2.RandAugment(num_ops=1, magnitude=9), [9]),
    "trivial": (v2.TrivialAugmentWide(), range(NUM_LEVELS)),
    "autoaugment": (v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), [0]),
}


def outcomes(policy: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """What a policy may make of an image [3, h, w]: pictures [n, 3, h, w], and how likely each is [n]."""
    layers = POLICIES[policy](*image.shape[1:])
    found = []
    for slots in zip(*layers, strict=True):
        paths = [(pack(image[None]), 1 / len(layers[0]))]
        for slot in slots:
            paths = [
                (pixels, so_far * share)
                for before, so_far in paths
                for pixels, share in choices(slot, before, THEIRS[policy][1])
            ]
        found += paths
    pictures, likely = zip(*found, strict=True)
    return unpack(torch.cat(pictures)), torch.tensor(likely)


def choices(slot: Slot, pixels: Tensor, levels: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
    """What a slot may make of packed pixels, with the share of each."""
    if slot.chance < 1:
        yield pixels, 1 - slot.chance
    for level in levels:
        magnitude = torch.linspace(slot.weakest, slot.strongest, NUM_LEVELS)[level : level + 1]
        if slot.whole:
            magnitude = magnitude.round()
        for sign in (1, -1) if slot.signed else (1,):
            share = slot.chance / len(levels) / (2 if slot.signed else 1)
            yield slot.operation(pixels, sign * magnitude), share


@pytest.mark.parametrize("policy", sorted(THEIRS))
def test_torchvision_makes_the_same_pictures_as_often(policy):
    image = torch.randint(40, 200, (3, 11, 13), dtype=torch.uint8, generator=seeded())
    pictures, likely = outcomes(policy, image)
    assert likely.sum() == pytest.approx(1)
    pictures = pictures.flatten(1).float()
    # Pictures that are nearly the same, such as those of the weakest levels, count as one.
    alike = torch.cdist(pictures, pictures, p=1) / pictures.shape[1] < 0.5
    expected = torch.zeros(len(pictures)).index_add_(0, first_of(alike), likely)
    torch.manual_seed(0)
    num_draws = 3000
    drawn = torch.stack([THEIRS[policy][0](image) for _ in range(num_draws)]).flatten(1).float()
    distance, nearest = (torch.cdist(drawn, pictures, p=1) / pictures.shape[1]).min(dim=1)
    assert distance.max() < 1, "a picture that ours does not make"
    counts = torch.bincount(first_of(alike)[nearest], minlength=len(pictures))
    assert ((counts - num_draws * expected).abs() <= 5 * (num_draws * expected).sqrt() + 3).all()


def first_of(alike: Tensor) -> Tensor:
    """For each row of bool [n, n] the first column that is True."""
    return alike.int().argmax(dim=1)


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


def test_layers_follow_each_other_as_in_torchvision(torchvisions):
    """Three layers with torchvision's operations one after another on the same draw: the same up to rounding."""
    images = some_images(42)
    layers = draw_layers(AugmentConfig(policy="randaugment", num_ops=3), (42, 20, 20), seeded())
    names = [operation.__name__ for operation, _ in by_operation(POLICIES["randaugment"](20, 20)[0])]
    expected = []
    for number, image in enumerate(images):
        for layer in layers:
            place = layer.place[number]
            image = torchvisions[names[place // 3]](image, float(layer.magnitude[place]))
        expected.append(image)
    difference = (unpack(apply_layers(pack(images), layers, "randaugment")).int() - torch.stack(expected).int()).abs()
    # A rounding error may be stretched by what follows it, up to equalize.
    assert (difference > 0).float().mean() < 0.01


def test_autoaugment_gives_an_image_a_pair_each_operation_with_its_chance(torchvisions):
    """Both layers with torchvision's operations on the same draw: the same up to rounding; and how often each comes."""
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
            for layer, row in zip(layers, slots, strict=True):
                place = layer.place[number]
                if layer.applied[place]:
                    name = row[first[number]].operation.__name__
                    image = torchvisions[name](image, float(layer.magnitude[place]))
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
