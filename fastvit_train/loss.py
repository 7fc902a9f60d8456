"""The loss of a batch."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from loaders.errors import FastvitError

__all__ = ["classification_loss", "distillation_loss"]


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    kind: Literal["cross_entropy", "bce"],
    label_smoothing: float,
    target_threshold: float | None = None,
) -> Tensor:
    """The mean loss of a batch, a scalar.

    Args:
        logits: Floats [b, num_classes].
        targets: Labels int64 [b], or shares of the classes, floats [b, num_classes].
        kind: `cross_entropy`, or `bce`: binary cross entropy of every class on its own, averaged over the classes too.
        label_smoothing: Share of the targets that is spread over all classes.
        target_threshold: For `bce`: after smoothing, the target is 1 for every class with a larger share than this and
            0 for the others, as in timm's `BinaryCrossEntropy`. "ResNet strikes back" (arXiv 2110.00476) has 0.2,
            DeiT III (arXiv 2204.07118) 0. None keeps the shares.

    Raises:
        FastvitError: The kind is unknown.
    """
    match kind:
        case "cross_entropy":
            return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        case "bce":
            num_classes = logits.shape[1]
            shares = targets if targets.is_floating_point() else F.one_hot(targets, num_classes).to(logits.dtype)
            smoothed = torch.full_like(shares, 1 / num_classes).lerp(shares, 1 - label_smoothing)
            if target_threshold is not None:
                smoothed = (smoothed > target_threshold).to(smoothed.dtype)
            return F.binary_cross_entropy_with_logits(logits, smoothed)
        case _:
            raise FastvitError(f"loss must be cross_entropy or bce, got {kind}")


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, *, kind: Literal["soft", "hard"], temperature: float
) -> Tensor:
    """How far a model is from its teacher, the mean over a batch, a scalar (source: DeiT, arXiv 2012.12877).

    Args:
        logits: Of the model, floats [b, num_classes].
        teacher_logits: The same of the teacher.
        kind: `soft`: the Kullback-Leibler divergence of the two distributions over the classes, times the square of the
            temperature, so that its gradients stay as large. `hard`: the cross entropy with the teacher's likeliest
            class.
        temperature: For `soft`: what both logits are divided by.

    Raises:
        FastvitError: The kind is unknown.
    """
    match kind:
        case "soft":
            own, wanted = (F.log_softmax(each / temperature, dim=1) for each in (logits, teacher_logits))
            return F.kl_div(own, wanted, reduction="batchmean", log_target=True) * temperature**2
        case "hard":
            return F.cross_entropy(logits, teacher_logits.argmax(dim=1))
        case _:
            raise FastvitError(f"distill.kind must be soft or hard, got {kind}")
