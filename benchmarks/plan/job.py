"""What a run has to do: steps of each phase, evaluations, checkpoints."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fastvit_train.config import Config
from fastvit_train.evaluate import num_views
from fastvit_train.flops import flops_per_image
from fastvit_train.models import build_model
from fastvit_train.schedule import Phase, phase_of, phases_of, total_steps
from loaders.errors import FastvitError

__all__ = ["Epoch", "Job", "describe_job", "first_epochs"]

_NUM_CLASSES = 1000
_BYTES = 4
"""Of a weight, a gradient and each value that the optimizer keeps: all of them are float32."""
# Values that the optimizer keeps for each weight; a checkpoint has them too.
_OPTIMIZER_VALUES = {"adamw": 2, "lamb": 2, "sgd": 1, "muon": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One epoch, the last of which may be cut short."""

    phase: Phase
    num_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A run, as far as its time depends on it."""

    config: Config
    num_images: int
    """Of the training set."""
    num_val_images: int
    epochs: tuple[Epoch, ...]
    flops_per_image: dict[Phase, float]
    """Of a training image, forward and backward."""
    evaluation_flops_per_image: float
    """Of all views of a validation image."""
    num_evaluations: int
    num_checkpoints: int
    gradient_bytes: int
    checkpoint_bytes: int
    best_bytes: int
    """Of the best weights, which each evaluation may write."""

    @property
    def last_phase(self) -> Phase:
        """What the run ends with."""
        return self.epochs[-1].phase

    @property
    def num_parts(self) -> int:
        """Parts that a step computes its batch in, where the preset says so."""
        return self.config.accumulate or 1


def describe_job(config: Config, *, num_images: int, num_val_images: int) -> Job:
    """What the run has to do on so many images; nothing of it is built but the outline of its model.

    Raises:
        FastvitError: The images make no batch.
    """
    steps_per_epoch = num_images // config.batch_size
    if not steps_per_epoch:
        raise FastvitError(
            f"{num_images:,} training images make no batch of {config.batch_size:,}; use a smaller --batch-size"
        )
    with torch.device("meta"):  # shapes are enough, and weights would take seconds
        model = build_model(
            config.arch,
            num_classes=_NUM_CLASSES,
            resolution=config.data.resolution,
            config=replace(config.model, bf16_residual=False),  # the meta device has no autocast that it could ask for
            phases=config.phases,
        )
    evaluated = Phase(config.data.resolution, 0.0)
    flops = {phase: flops_per_image(model, phase) for phase in {*phases_of(config), evaluated}}
    weight_bytes = _BYTES * sum(parameter.numel() for parameter in model.parameters())
    num_epochs = math.ceil(config.epochs)
    averages = 1 if config.ema_half_life_epochs else 0
    return Job(
        config=config,
        num_images=num_images,
        num_val_images=num_val_images,
        epochs=tuple(_epochs(config, steps_per_epoch)),
        flops_per_image=flops,
        evaluation_flops_per_image=flops[evaluated] / 3 * num_views(config.eval_averaging),
        num_evaluations=_times(config.epochs, config.eval_every_epochs),
        num_checkpoints=min(num_epochs, _times(config.epochs, config.checkpoint_every_epochs)),
        gradient_bytes=weight_bytes,
        checkpoint_bytes=weight_bytes * (1 + averages + _OPTIMIZER_VALUES[config.optim.name]),
        best_bytes=weight_bytes,
    )


def first_epochs(config: Config) -> dict[Phase, int]:
    """The phases of a run, with the first epoch of each."""
    epochs = range(math.ceil(config.epochs))
    return {phase: next(group) for phase, group in itertools.groupby(epochs, lambda epoch: phase_of(config, epoch))}


def _epochs(config: Config, steps_per_epoch: int) -> Iterator[Epoch]:
    left = total_steps(config.epochs, steps_per_epoch)
    for epoch in range(math.ceil(config.epochs)):
        yield Epoch(phase=phase_of(config, epoch), num_steps=min(left, steps_per_epoch))
        left -= steps_per_epoch


def _times(epochs: float, every: int) -> int:
    """How often something happens that follows every so many epochs and the end of the run."""
    return math.ceil(epochs / every - 1e-9)
