"""Presets by name: recipes, functions that return a config and say what to expect of it."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fastvit_train.config import Config, ModelConfig
from fastvit_train.recipes import cifar10, imagenet
from loaders.errors import FastvitError

__all__ = [
    "ARCH_PRESETS",
    "FAMILIES",
    "PRESETS",
    "Family",
    "build_preset",
    "expectation",
    "preset_of",
    "run_name",
    "summary",
]

# Each takes the epochs to spend, on which warm-ups and averages depend too, and has the usual number as its default.
PRESETS: dict[str, Callable[..., Config]] = {
    "cifar10-quick": cifar10.quick,
    "cifar10-resnet-fast": cifar10.resnet_fast,
    "cifar10-resnet50": cifar10.resnet50,
    "cifar10-resnet50-h100": cifar10.resnet50_h100,
    "cifar10-vit-b16": cifar10.vit_b16,
    "cifar10-vit-b16-h100": cifar10.vit_b16_h100,
    "cifar10-vit-small": cifar10.vit_small,
    "cifar10-vit-small-distilled": cifar10.vit_small_distilled,
    "cifar10-vit-small-fast": cifar10.vit_small_fast,
    "cifar10-vit-small-h100": cifar10.vit_small_h100,
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

_TIMM_PREFIX = "timm/"
_SMALL_SIDE = 64  # pixels, up to which images are small


class Family(NamedTuple):
    """Models that are trained alike."""

    names: tuple[str, ...]
    """What their names begin with."""
    preset: str
    """What they are trained with."""
    small_preset: str
    """The same for small images: models whose name ends in `_cifar`, or a resolution of at most 64 px."""


# Attention, and what was published with its recipes: AdamW and strong augmentation (ConvNeXt), against SGD.
FAMILIES = (
    Family(
        ("vit", "flexivit", "deit", "beit", "eva", "cait", "xcit", "swin", "convnext"),
        preset="imagenet-vit-s16-90",
        small_preset="cifar10-vit-small",
    ),
    Family(
        ("resnet", "resnext", "wide_resnet", "seresnet", "seresnext", "ecaresnet", "res2net", "resnest", "regnet"),
        preset="imagenet-resnet50-ffcv",
        small_preset="cifar10-resnet50",
    ),
)


def preset_of(arch: str, *, resolution: int | None = None) -> str:
    """The name of the preset that a model is trained with where none is named: its own, or that of its family.

    Args:
        arch: As in `Config.arch`.
        resolution: Of the images, where it is known; else the name of the model tells whether they are small.

    Raises:
        FastvitError: The model belongs to no family that we know.
    """
    if arch in ARCH_PRESETS:
        return ARCH_PRESETS[arch]
    name = arch.removeprefix(_TIMM_PREFIX).removeprefix("test_")  # timm's own models for tests
    for family in FAMILIES:
        if name.startswith(family.names):
            is_small = arch.endswith("_cifar") or (resolution is not None and resolution <= _SMALL_SIDE)
            return family.small_preset if is_small else family.preset
    raise FastvitError(
        f"there is no recipe for {arch}; choose one with --preset, such as --preset {FAMILIES[0].preset} --arch {arch}"
    )


def summary(name: str) -> str:
    """What a preset is, in the line that its recipe begins with."""
    return (PRESETS[name].__doc__ or "").partition("\n")[0]


def expectation(name: str) -> str:
    """The accuracy to expect of a preset, and what it took, as its recipe has it."""
    found = re.search(r"Expected: (.*?)\. Cost:", PRESETS[name].__doc__ or "", re.DOTALL)
    return "" if found is None else " ".join(found[1].split())


def build_preset(name: str, *, epochs: float | None = None, arch: str | None = None) -> Config:
    """The config of a preset.

    Args:
        name: One of `PRESETS`.
        epochs: Length of the run; as the recipe has it when None.
        arch: Another model than the recipe's: what the recipe changes in its own model is left out, for not every model
            has it, unless both are ViTs of ours.

    Raises:
        FastvitError: The name is unknown, or the epochs are none.
    """
    if name not in PRESETS:
        raise FastvitError(f"unknown preset {name!r}; choose one of: {', '.join(sorted(PRESETS))}")
    if epochs is not None and not epochs > 0:
        raise FastvitError(f"epochs must be positive, got {epochs:g}")
    config = PRESETS[name]() if epochs is None else PRESETS[name](epochs)
    if arch is None or arch == config.arch:
        return config
    if arch.startswith("vit_") and config.arch.startswith("vit_"):
        return replace(config, arch=arch)
    phases = tuple((end, resolution, 0.0) for end, resolution, _ in config.phases)
    return replace(config, arch=arch, model=ModelConfig(), phases=phases)


def run_name(config: Config) -> str:
    """What a run is called: after its preset, or after its model where the preset was made for another."""
    known = PRESETS.get(config.preset or "")
    return config.arch if config.preset is None or (known and known().arch != config.arch) else config.preset
