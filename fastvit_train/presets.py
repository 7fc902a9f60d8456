"""Recipes: functions that return a config and say what to expect of it."""

from collections.abc import Callable
from pathlib import Path

from fastvit_train.config import AugmentConfig, Config, DataConfig, OptimConfig, ScheduleConfig

CIFAR10_MEAN = (0.49140, 0.48216, 0.44653)
CIFAR10_STD = (0.24703, 0.24349, 0.26159)


def _cifar10_data() -> DataConfig:
    return DataConfig(
        train=Path("data/cifar10_train.beton"),
        val=Path("data/cifar10_test.beton"),
        backend="resident",
        resolution=32,
        crop="whole",
    )


def cifar10_quick() -> Config:
    """CIFAR-10 in minutes on two CPU cores: a small whitened ResNet and a short, steep schedule.

    Expected: 92.0 % top-1 (91.9 to 92.1 over seeds 0 to 2, one view), 5.5 minutes on two Zen 5 cores; not yet run on a
    GPU. Cost: 0.2 PFLOP. Source: the recipe of airbench94, arXiv 2404.00498, with Nesterov SGD and fewer epochs.
    """
    epochs = 6
    return Config(
        preset="cifar10-quick",
        arch="resnet_fast_cifar",
        epochs=epochs,
        batch_size=500,
        label_smoothing=0.2,
        data=_cifar10_data(),
        augment=AugmentConfig(flip="alternating", shift=2, mean=CIFAR10_MEAN, std=CIFAR10_STD),
        optim=OptimConfig(name="sgd", lr=0.75, norm_bias_lr_factor=64, momentum=0.85, weight_decay=1.33e-3),
        schedule=ScheduleConfig(decay="linear", warmup_epochs=0.23 * epochs, start_fraction=0.2),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "cifar10-quick": cifar10_quick,
}


def build_preset(name: str) -> Config:
    """The config of a preset.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]()
