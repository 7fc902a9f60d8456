"""The models of `fastvit-bench inference`: those of runs, and those with a name alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.options import distinct_names
from benchmarks.row_files import Row
from fastvit_train.config import Config, DataConfig, ModelConfig
from fastvit_train.flops import forward_flops_per_image
from fastvit_train.models import build_model, check_resolution
from fastvit_train.restore import restore
from loaders.errors import FastvitError

__all__ = ["Built", "Source", "facts", "sources"]

_CIFAR_CLASSES, _IMAGENET_CLASSES = 10, 1000


class Built(NamedTuple):
    """A model that can be called."""

    model: nn.Module
    """On the CPU, in evaluation mode."""
    config: Config
    """Its run's, at the resolution that the model is built for."""
    top1: float | None
    """What its run found, of one view of each image."""


class Source(NamedTuple):
    """Where a model comes from."""

    name: str
    checkpoint: Path | None = None
    """A run folder or a checkpoint; without one the name is ARCH@PX, and the weights are random."""

    def build(self) -> Built:
        """The model, with the weights that its run evaluated.

        Raises:
            FastvitError: The checkpoint cannot be used.
        """
        if self.checkpoint is not None:
            restored = restore(self.checkpoint)
            return Built(restored.model, restored.config, restored.progress.top1)
        arch, resolution = _parts(self.name)
        num_classes = _CIFAR_CLASSES if arch.endswith("_cifar") else _IMAGENET_CLASSES
        torch.manual_seed(0)
        model = build_model(arch, num_classes=num_classes, resolution=resolution)
        return Built(model.eval(), Config(arch=arch, data=DataConfig(resolution=resolution)), None)


def sources(runs: Sequence[Path], models: Sequence[str]) -> list[Source]:
    """The models of runs, called after their folders, and then those that are given as ARCH@PX.

    Raises:
        FastvitError: There is no such model for such images.
    """
    for text in models:
        arch, resolution = _parts(text)
        check_resolution(arch, resolution=resolution, config=ModelConfig())
    paths = list(dict.fromkeys(runs))
    trained = [Source(name, path) for name, path in zip(distinct_names(paths), paths, strict=True)]
    return [*trained, *map(Source, dict.fromkeys(models))]


def _parts(text: str) -> tuple[str, int]:
    arch, _, side = text.rpartition("@")
    if not arch or not side.isdecimal() or int(side) < 1:
        raise FastvitError(f"models must be given as ARCH@PX, such as vit_b16@224, got {text!r}")
    return arch, int(side)


def facts(source: Source) -> Row:
    """The part of a row that says what the model is, whatever is measured.

    Raises:
        FastvitError: The checkpoint cannot be used.
    """
    model, config, top1 = source.build()
    return {
        "model": source.name,
        "arch": config.arch,
        "resolution": config.data.resolution,
        "run": None if source.checkpoint is None else source.name,
        "top1": top1,
        "flops_per_image": forward_flops_per_image(model, config.data.resolution),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
