"""A trained model, from the files that its run left."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from fastvit_train import checkpoint
from fastvit_train.checkpoint import UnusableCheckpointError
from fastvit_train.config import Config
from fastvit_train.config_json import from_dict
from fastvit_train.device import choose_fast_kernels, dtype_of
from fastvit_train.initial_weights import fill_model
from fastvit_train.models import build_model
from fastvit_train.models.device_kernels import use_fast_modules
from fastvit_train.run import Progress
from fastvit_train.run_folder import BEST, CHECKPOINT
from loaders.errors import FastvitError

__all__ = ["Precision", "Restored", "find_checkpoint", "in_precision", "on_device", "restore"]


class Restored(NamedTuple):
    """A trained model and what its checkpoint says of it."""

    path: Path
    """The checkpoint."""
    model: nn.Module
    """On the CPU, in evaluation mode, with the weights that the run evaluated."""
    config: Config
    """Its run's, at the resolution that the model is built for."""
    num_classes: int
    class_names: tuple[str, ...] | None
    """By label, where the training set had names for them."""
    progress: Progress
    """Of the run, when the checkpoint was written."""

    @property
    def weights(self) -> str:
        """Which weights the model has, for people."""
        return "moving average" if self.config.ema_half_life_epochs else "plain"

    def name_of(self, number: int) -> str:
        """What to call a class: its name, or its number where it has none."""
        return str(number) if self.class_names is None else self.class_names[number]


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` names: a file, or a run folder's best weights, else its newest checkpoint.

    Raises:
        FastvitError: There is none.
    """
    if path.is_dir():
        for name in (BEST, CHECKPOINT):
            if (path / name).is_file():
                return path / name
        raise FastvitError(f"{path} has neither {BEST} nor {CHECKPOINT}; name a run folder or a checkpoint")
    if not path.is_file():
        raise FastvitError(f"{path}: no such file; name a run folder or a checkpoint")
    return path


def restore(path: Path, *, resolution: int | None = None) -> Restored:
    """Build the model of a checkpoint, with the weights that its run evaluated.

    Args:
        path: A run's `checkpoint.pt` or `best.pt`, or its folder (see `find_checkpoint`).
        resolution: Side of the images that it will get, in pixels; position embeddings are interpolated. As in
            training when None.

    Raises:
        FastvitError: There is no checkpoint, it is damaged, or the model cannot be built from it.

    Examples:
        The class of one image of a finished run:

        >>> restored = restore(Path("runs/resnet18"))  # doctest: +SKIP
        >>> restored.name_of(restored.model(image).argmax())  # doctest: +SKIP
        'cat'
    """
    found = find_checkpoint(path)
    try:
        state = checkpoint.load(found)
        checkpoint.require_parts(state, {"config": dict, "num_classes": int, "model": dict, "progress": dict})
    except UnusableCheckpointError as error:
        raise FastvitError(f"{found}: {error}; name another checkpoint") from error
    config = from_dict(state["config"], where=found)
    if resolution is not None:
        config = replace(config, data=replace(config.data, resolution=resolution))
    names = state.get("class_names")
    model = build_model(
        config.arch,
        num_classes=state["num_classes"],
        resolution=config.data.resolution,
        config=config.model,
        phases=config.phases,
    )
    averaged = state.get("ema")
    fill_model(model, state["model"] if averaged is None else averaged, path=found)
    return Restored(
        path=found,
        model=model.eval(),
        config=config,
        num_classes=state["num_classes"],
        class_names=None if names is None else tuple(names),
        progress=Progress(**state["progress"]),
    )


def in_precision(config: Config, precision: Literal["auto", "bf16", "fp16", "fp32"] | None) -> Config:
    """The config of a trained model that is to compute in another precision; as it is when None.

    `bf16_residual` is of no use in most of them and would be refused, but the model is built already.
    """
    if precision is None:
        return config
    return replace(config, precision=precision, model=replace(config.model, bf16_residual=False))


class Precision(NamedTuple):
    """What a model computes in."""

    dtype: torch.dtype
    """Of the images that it is given."""
    autocast: Callable[[], AbstractContextManager[object]]


def on_device(model: nn.Module, config: Config, device: torch.device) -> Precision:
    """Move a model to where it shall compute, and say how: as a run with this config evaluates."""
    choose_fast_kernels(device)
    model.to(device).to(memory_format=torch.channels_last)
    use_fast_modules(model, device)
    dtype = dtype_of(config, device)
    return Precision(dtype, partial(torch.autocast, device.type, dtype=dtype, enabled=dtype != torch.float32))
