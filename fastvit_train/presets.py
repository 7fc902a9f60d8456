"""Presets by name: recipes, functions that return a config and say what to expect of it."""

import re
from collections.abc import Callable

from fastvit_train.config import Config
from fastvit_train.recipes import cifar10, imagenet
from loaders.errors import FastvitError

__all__ = ["ARCH_PRESETS", "PRESETS", "build_preset", "expectation", "summary"]

# Each takes the epochs to spend, on which warm-ups and averages depend too, and has the usual number as its default.
PRESETS: dict[str, Callable[..., Config]] = {
    "cifar10-quick": cifar10.quick,
    "cifar10-resnet-fast": cifar10.resnet_fast,
    "cifar10-resnet50": cifar10.resnet50,
    "cifar10-vit-b16": cifar10.vit_b16,
    "cifar10-vit-small": cifar10.vit_small,
    "cifar10-vit-small-fast": cifar10.vit_small_fast,
    "finetune-cifar10": cifar10.finetune,
    "imagenet-resnet50-ffcv": imagenet.resnet50_ffcv,
    "imagenet-resnet50-rsb-a2": imagenet.resnet50_rsb_a2,
    "imagenet-resnet50-rsb-a3": imagenet.resnet50_rsb_a3,
    "imagenet-vit-b16-130": imagenet.vit_b16_130,
    "imagenet-vit-s16-90": imagenet.vit_s16_90,
    "imagenet-vit-s16-deit3": imagenet.vit_s16_deit3,
}

# What a model is trained with where no preset is named.
ARCH_PRESETS = {
    "resnet50": "imagenet-resnet50-ffcv",
    "resnet50_cifar": "cifar10-resnet50",
    "resnet_fast_cifar": "cifar10-resnet-fast",
    "vit_b16": "imagenet-vit-b16-130",
    "vit_s16": "imagenet-vit-s16-90",
    "vit_small_cifar": "cifar10-vit-small",
}


def summary(name: str) -> str:
    """What a preset is, in the line that its recipe begins with."""
    return (PRESETS[name].__doc__ or "").partition("\n")[0]


def expectation(name: str) -> str:
    """The accuracy to expect of a preset, and what it took, as its recipe has it."""
    found = re.search(r"Expected: (.*?)\. Cost:", PRESETS[name].__doc__ or "", re.DOTALL)
    return "" if found is None else " ".join(found[1].split())


def build_preset(name: str, *, epochs: float | None = None) -> Config:
    """The config of a preset.

    Args:
        name: One of `PRESETS`.
        epochs: Length of the run; as the recipe has it when None.

    Raises:
        FastvitError: The name is unknown, or the epochs are none.
    """
    if name not in PRESETS:
        raise FastvitError(f"unknown preset {name!r}; choose one of: {', '.join(sorted(PRESETS))}")
    if epochs is not None and not epochs > 0:
        raise FastvitError(f"epochs must be positive, got {epochs:g}")
    return PRESETS[name]() if epochs is None else PRESETS[name](epochs)
