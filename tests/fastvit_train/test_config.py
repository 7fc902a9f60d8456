"""Values that make no sense are refused by name."""

import re

import pytest

from fastvit_train.config import AugmentConfig, Config, DistillConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_ops": 0}, "augment.num_ops must be positive, got 0"),
        ({"magnitude": 31}, "augment.magnitude must lie in [0, 30], got 31"),
        ({"color_jitter": 1.5}, "augment.color_jitter must lie in [0, 1], got 1.5"),
        ({"erasing_probability": -0.1}, "augment.erasing_probability must lie in [0, 1], got -0.1"),
        ({"switch_probability": 2}, "augment.switch_probability must lie in [0, 1], got 2"),
        ({"mixup_alpha": -1}, "augment.mixup_alpha must not be negative, got -1"),
        ({"cutmix_alpha": -1}, "augment.cutmix_alpha must not be negative, got -1"),
    ],
)
def test_augmentation_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AugmentConfig(**changes)


def test_a_target_threshold_leaves_nothing_of_label_smoothing():
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 with bce_target_threshold, got 0\.1"):
        Config(loss="bce", bce_target_threshold=0.2, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": 0.0}, "distill.weight must lie in (0, 1], got 0.0"),
        ({"weight": 1.1}, "distill.weight must lie in (0, 1], got 1.1"),
        ({"temperature": 0.0}, "distill.temperature must be positive, got 0.0"),
        ({"epochs": 0.0}, "distill.epochs must be positive, got 0.0"),
        ({"kind": "warm"}, "distill.kind must be one of soft, hard, got warm"),
    ],
)
def test_distillation_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DistillConfig(**changes)
