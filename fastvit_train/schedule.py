"""Learning rate and epoch arithmetic as pure functions of the step."""

import math
from typing import NamedTuple

from fastvit_train.config import Config, ScheduleConfig
from loaders.errors import FastvitError

__all__ = ["Phase", "last_step", "lr_factor", "phase_of", "phases_of", "total_steps"]


class Phase(NamedTuple):
    """What an epoch trains at."""

    resolution: int
    """Side of the images, in pixels."""
    patch_drop: float
    """Share of a ViT's patches that are left out."""


def phase_of(config: Config, epoch: int) -> Phase:
    """The phase of an epoch, from 0: the first that ends after the share of the run at which the epoch starts."""
    for end, resolution, patch_drop in config.phases:
        if epoch < end * config.epochs - 1e-9:
            return Phase(resolution, patch_drop)
    return Phase(config.data.resolution, config.model.patch_drop)


def phases_of(config: Config) -> set[Phase]:
    """All phases of a run."""
    return {phase_of(config, epoch) for epoch in range(math.ceil(config.epochs))}


def total_steps(epochs: float, steps_per_epoch: int) -> int:
    """Optimizer steps in `epochs` epochs, rounded up."""
    return math.ceil(epochs * steps_per_epoch - 1e-9)


def last_step(config: Config, *, steps_per_epoch: int) -> int:
    """Steps after which a run ends: those of the schedule, or fewer where the config says so."""
    steps = total_steps(config.epochs, steps_per_epoch)
    return min(steps, config.max_steps or steps)


def lr_factor(config: ScheduleConfig, *, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of a step as a share of the highest one.

    Args:
        config: Warm-up and decay.
        step: The step, from 0.
        num_steps: Steps in the whole schedule.
        steps_per_epoch: Turns the warm-up's epochs into steps.

    Returns:
        `start_fraction` at step 0, rising to 1 at the end of the warm-up and falling to `end_fraction` at `num_steps`.
    """
    warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), num_steps)
    if step < warmup_steps:
        return config.start_fraction + (1 - config.start_fraction) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    match config.decay:
        case "linear":
            remaining = 1 - progress
        case "cosine":
            remaining = (1 + math.cos(math.pi * progress)) / 2
        case _:
            raise FastvitError(f"schedule.decay must be cosine or linear, got {config.decay}")
    return config.end_fraction + (1 - config.end_fraction) * remaining
