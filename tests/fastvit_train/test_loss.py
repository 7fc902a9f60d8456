"""The loss."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F

from fastvit_train.loss import classification_loss, distillation_loss


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timms(logits, smoothing):
    ours = classification_loss(logits, LABELS, kind="bce", label_smoothing=smoothing)
    torch.testing.assert_close(ours, BinaryCrossEntropy(smoothing=smoothing)(logits, LABELS))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.21, 0.5, 0.9])
@pytest.mark.parametrize("mixed", [True, False])
def test_a_target_threshold_is_timms(logits, threshold, share, mixed):
    first, second = F.one_hot(LABELS, 5).float(), F.one_hot(LABELS.flip(0), 5).float()
    targets = share * first + (1 - share) * second if mixed else LABELS
    ours = classification_loss(logits, targets, kind="bce", label_smoothing=0.0, target_threshold=threshold)
    timms = BinaryCrossEntropy(smoothing=0.0, target_threshold=threshold)
    torch.testing.assert_close(ours, timms(logits, targets))
    kept = classification_loss(logits, targets, kind="bce", label_smoothing=0.0)
    assert mixed == (not torch.allclose(ours, kept)), "whole targets are 0 and 1 already"


@pytest.mark.parametrize("smoothing", [0.1, 0.9, 0.99])
def test_the_threshold_comes_after_smoothing_as_in_timm(logits, smoothing):
    """Of five classes, so much smoothing leaves 0.18 and 0.198 for those that are not there."""
    threshold = 0.15
    ours = classification_loss(logits, LABELS, kind="bce", label_smoothing=smoothing, target_threshold=threshold)
    timms = BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold)
    torch.testing.assert_close(ours, timms(logits, LABELS))


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
def test_shares_of_one_class_are_its_label(logits, kind):
    shares = F.one_hot(LABELS, 5).float()
    ours = classification_loss(logits, shares, kind=kind, label_smoothing=0.2)
    torch.testing.assert_close(ours, classification_loss(logits, LABELS, kind=kind, label_smoothing=0.2))


def test_mixed_shares_mix_the_losses(logits):
    first, second = F.one_hot(LABELS, 5).float(), F.one_hot(LABELS.flip(0), 5).float()
    for kind in ("cross_entropy", "bce"):
        mixed, *apart = (
            classification_loss(logits, shares, kind=kind, label_smoothing=0.0)
            for shares in (0.3 * first + 0.7 * second, first, second)
        )
        torch.testing.assert_close(mixed, 0.3 * apart[0] + 0.7 * apart[1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_distillation_is_the_divergence_times_the_squared_temperature(logits, temperature):
    teacher = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    own, wanted = ((each / temperature).double().exp() for each in (logits, teacher))
    own, wanted = own / own.sum(dim=1, keepdim=True), wanted / wanted.sum(dim=1, keepdim=True)
    expected = temperature**2 * (wanted * (wanted.log() - own.log())).sum() / 6
    ours = distillation_loss(logits, teacher, kind="soft", temperature=temperature)
    assert float(ours) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation_loss(logits, logits, kind="soft", temperature=temperature)) == pytest.approx(0, abs=1e-6)


def test_the_gradients_of_soft_distillation_stay_as_large_at_any_temperature(logits):
    """At high temperatures they are those of half the mean squared difference of the centred logits, over classes."""
    teacher, own = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), logits.clone().requires_grad_()
    distillation_loss(own, teacher, kind="soft", temperature=1000.0).backward()
    centred, wanted = (each - each.mean(dim=1, keepdim=True) for each in (logits, teacher))
    torch.testing.assert_close(own.grad, (centred - wanted) / 5 / 6, atol=1e-3, rtol=1e-2)


def test_hard_distillation_is_the_cross_entropy_with_the_teachers_class(logits):
    teacher = F.one_hot(LABELS, 5).float() * 0.1 + 7
    ours = distillation_loss(logits, teacher, kind="hard", temperature=3.0)
    torch.testing.assert_close(ours, -logits.log_softmax(dim=1)[range(6), LABELS].mean())


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss must be cross_entropy or bce, got focal"):
        classification_loss(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), kind="focal", label_smoothing=0.0)
    with pytest.raises(ValueError, match=r"distill\.kind must be soft or hard, got warm"):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), kind="warm", temperature=1.0)
