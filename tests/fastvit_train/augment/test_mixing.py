"""Erasing and mixing against torchvision's transforms on the same parameters, and the distributions that are drawn."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from fastvit_train.augment.mixing import (
    ERASED,
    Mixing,
    draw_erased,
    draw_mixing,
    erase,
    inside,
    mix,
    mix_labels,
    partners,
)
from fastvit_train.config import AugmentConfig

SHAPE = (4000, 40, 48)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 40, 48, generator=seeded())


def mixed(images, mixing):
    own, other = list(images.unbind(1)), list(partners(images).unbind(1))
    return torch.stack(mix(own, other, mixing), dim=1)


def areas(boxes):
    return (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])


def test_erasing_is_torchvisions():
    images = torch.randint(2**24, (6, 40, 48), dtype=torch.int32, generator=seeded())
    boxes = draw_erased(1.0, (6, 40, 48), seeded())
    for image, erased, (top, bottom, left, right) in zip(images, erase(images, boxes), boxes.tolist(), strict=True):
        value = torch.full((1, 1, 1), ERASED, dtype=torch.int32)
        expected = transforms.erase(image[None], top, left, bottom - top, right - left, value)[0]
        assert torch.equal(erased, expected)


def test_erased_boxes_are_drawn_as_torchvisions():
    boxes = draw_erased(0.25, SHAPE, seeded())
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 1] <= 40).all()
    assert (boxes[:, 3] <= 48).all()
    assert abs((areas(boxes) > 0).float().mean() - 0.25) < 0.03
    boxes = draw_erased(1.0, SHAPE, seeded())
    torch.manual_seed(0)
    theirs = v2.RandomErasing(p=1.0)
    drawn = [theirs.make_params([torch.zeros(3, 40, 48)]) for _ in range(4000)]
    columns = {"h": boxes[:, 1] - boxes[:, 0], "w": boxes[:, 3] - boxes[:, 2], "i": boxes[:, 0], "j": boxes[:, 2]}
    for name, mine in columns.items():
        expected = torch.tensor([params[name] for params in drawn]).float()
        mine = mine.float()
        assert abs(mine.mean() - expected.mean()) < 4 * expected.std() * (2 / 4000) ** 0.5, name
        assert mine.std() == pytest.approx(float(expected.std()), rel=0.06), name


def test_no_erasing_draws_nothing():
    assert draw_erased(0.0, SHAPE, seeded()) is None
    assert draw_mixing(AugmentConfig(), SHAPE, seeded()) is None


def one_share(mixing: Mixing, number: int) -> Mixing:
    """What one image got, for all."""
    return Mixing(*(part[number].expand_as(part) for part in mixing))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_torchvisions(images, kind):
    labels = torch.tensor([0, 1, 2, 1, 3, 3])
    config = AugmentConfig(mixup_alpha=0.8 if kind == "mixup" else 0.0, cutmix_alpha=1.0 if kind == "cutmix" else 0.0)
    mixing = draw_mixing(config, (6, 40, 48), seeded())
    for number in range(6):
        alike = one_share(mixing, number)
        share = float(alike.share[0])
        top, bottom, left, right = alike.box[0].tolist()
        if kind == "mixup":
            theirs, params = v2.MixUp(num_classes=4), {"lam": share}
        else:
            box = (left, top, right, bottom)
            theirs, params = v2.CutMix(num_classes=4), {"box": box, "lam_adjusted": share}
        params = {**params, "labels": labels, "batch_size": 6}
        assert torch.allclose(mixed(images, alike), theirs.transform(images, params), atol=1e-6)
        targets, largest = mix_labels(labels, alike, 4)
        assert torch.allclose(targets, theirs.transform(labels, params), atol=1e-6)
        assert torch.equal(largest, labels if share >= 0.5 else labels.roll(1))


def test_each_image_is_mixed_by_its_own_share(images):
    mixing = draw_mixing(AugmentConfig(mixup_alpha=0.8, cutmix_alpha=1.0), (6, 40, 48), seeded())
    result = mixed(images, mixing)
    for number in range(6):
        assert torch.allclose(result[number], mixed(images, one_share(mixing, number))[number], atol=1e-6)


def test_mixed_shares_follow_the_beta_distribution():
    mixing = draw_mixing(AugmentConfig(mixup_alpha=0.3), SHAPE, seeded())
    assert torch.equal(mixing.opacity, mixing.share)
    assert not areas(mixing.box).any()
    expected = torch.distributions.Beta(0.3, 0.3)
    assert abs(mixing.share.mean() - 0.5) < 0.03
    assert float(mixing.share.var()) == pytest.approx(float(expected.variance), rel=0.06)


def test_pasted_boxes_are_drawn_as_torchvisions():
    mixing = draw_mixing(AugmentConfig(cutmix_alpha=1.0), SHAPE, seeded())
    assert (mixing.opacity == 1).all()
    assert torch.allclose(1 - mixing.share, areas(mixing.box) / (40 * 48), atol=1e-6)
    torch.manual_seed(0)
    theirs = v2.CutMix(num_classes=4)
    sample = [torch.zeros(2, 3, 40, 48)]
    expected = torch.tensor([theirs.make_params(sample)["lam_adjusted"] for _ in range(4000)])
    assert abs(mixing.share.mean() - expected.mean()) < 0.03
    assert float(mixing.share.std()) == pytest.approx(float(expected.std()), rel=0.06)


def test_the_switch_chooses_between_the_two():
    config = AugmentConfig(mixup_alpha=0.8, cutmix_alpha=1.0, switch_probability=0.3)
    mixing = draw_mixing(config, SHAPE, seeded())
    assert abs((mixing.opacity == 1).float().mean() - 0.3) < 0.03
    assert not areas(mixing.box)[mixing.opacity < 1].any()


def test_the_ends_of_a_box_are_excluded():
    mask = inside(torch.tensor([[1, 3, 0, 2]]), 4, 4)[0]
    assert mask.nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
