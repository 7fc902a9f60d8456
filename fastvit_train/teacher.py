"""The teacher of a run that distills: a trained model whose answers the run's model learns besides the labels."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvit_train.config import AugmentConfig, Config
from fastvit_train.data import are_numbers, share_of_batch
from fastvit_train.distributed import World
from fastvit_train.flops import forward_flops_per_image
from fastvit_train.models import build_model, check_resolution
from fastvit_train.models.device_kernels import use_fast_modules
from fastvit_train.option_rules import reset_unused
from fastvit_train.presets import build_preset
from loaders.errors import FastvitError

__all__ = [
    "TEACHER",
    "Teacher",
    "build_teacher",
    "check_teacher",
    "teacher_config",
    "teacher_flops_per_image",
    "teacher_side",
    "untrained_teacher",
]

TEACHER = "teacher"
"""The folder, in that of the run, of the teacher that it trains."""

# What the teacher's training has of the run: where its images are, and how this machine computes.
_OF_THE_RUN = (
    "seed",
    "resume",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_checkpoints",
    "device",
    "trackers",
    "compile",
    "cuda_graph",
)
_DATA_OF_THE_RUN = (
    "train",
    "val",
    "classes",
    "backend",
    "exif_orientation",
    "order",
    "num_workers",
    "timeout_seconds",
    "prefetch_batches",
    "decode",
    "scaled_decode",
    "on_error",
)


@dataclass(kw_only=True, slots=True)
class Teacher:
    """A model that is not trained any more, and how it wants its images.

    The small images of a phase are small for it too: where both models have the same resolution, it gets the images as
    they are. Upsampled ones look like nothing that it has seen (docs/recipes.md has the figures).
    """

    model: nn.Module
    config: Config
    """Of its training."""
    student: Config
    """The run that learns from it."""
    num_classes: int
    class_names: tuple[str, ...] | None = None
    """By label, where its training set had names for them."""
    path: Path | None = None
    """Its checkpoint; None for random weights."""
    top1: float | None = None
    """Its accuracy."""
    seconds: float | None = None
    """What its training and evaluation took in this run; None where it was trained before."""
    description: str = "untrained"
    """What tells it from others, wherever it lies."""
    _scale_and_offset: tuple[Tensor, Tensor] | None = field(init=False, default=None)
    """What images are multiplied by, and what is added, where it has another normalisation than the run."""

    def __post_init__(self) -> None:
        """Nothing of it needs a gradient, and its batch normalisation has its statistics already."""
        self.model.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over trained weights, of this model on the CPU."""
        self.model.load_state_dict(weights)
        checksum = 0
        for tensor in weights.values():
            checksum = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().tobytes(), checksum)
        self.description = f"{self.config.arch} with weight checksum {checksum:08x}"

    def check_classes(self, num_classes: int, names: Sequence[str] | None) -> None:
        """Refuse to learn from it where it tells other classes apart than the run: as many, by the same names.

        Raises:
            FastvitError: It does.
        """
        remedy = "name a teacher that was trained on these classes with --distill.teacher"
        if self.num_classes != num_classes:
            raise FastvitError(
                f"the teacher {self.path} knows {self.num_classes} classes, but {self.student.data.train} has "
                f"{num_classes}; {remedy}"
            )
        if are_numbers(self.class_names) or are_numbers(names) or names is None or self.class_names is None:
            return
        for label, (own, other) in enumerate(zip(self.class_names, names, strict=True)):
            if own != other:
                raise FastvitError(
                    f"class {label} is {own!r} for the teacher {self.path}, but {other!r} in "
                    f"{self.student.data.train}; {remedy}"
                )

    def place(self, device: torch.device) -> None:
        """Move it to where the run computes."""
        self.model.to(device).to(memory_format=torch.channels_last)
        use_fast_modules(self.model, device)
        given, own = self.student.augment, self.config.augment
        if (given.mean, given.std) != (own.mean, own.std):
            scale, offset = _scale_and_offset(given, own)
            self._scale_and_offset = (scale.to(device), offset.to(device))

    def logits(self, images: Tensor) -> Tensor:
        """Its answers, float32 [b, num_classes], to images [b, 3, h, w] as the run's model gets them."""
        if self._scale_and_offset is not None:
            scale, offset = self._scale_and_offset
            images = (images.float() * scale + offset).to(images.dtype)
        side = teacher_side(images.shape[-1], self.config, self.student)
        if side != images.shape[-1]:
            resized = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
            images = resized.to(images.dtype)
        logits: Tensor = self.model(images)
        return logits.float()

    def flops_per_image(self, resolution: int) -> float:
        """Operations for an image of which the run's model gets so many pixels in each direction."""
        return forward_flops_per_image(self.model, teacher_side(resolution, self.config, self.student))


def teacher_side(side: int, teacher: Config, student: Config) -> int:
    """How many pixels of an image the teacher gets in each direction where the run's model gets `side`."""
    return round(side * teacher.data.resolution / student.data.resolution)


def teacher_config(config: Config, folder: Path) -> Config:
    """The training of the teacher whose recipe a run names; it is evaluated once, at its end.

    Args:
        config: The run.
        folder: Of the run.

    Raises:
        FastvitError: The recipe is unknown, or does not go together with the run's options.
    """
    recipe = build_preset(str(config.distill.preset), epochs=config.distill.epochs)
    if recipe.distill.is_on:
        raise FastvitError("it has a teacher of its own; name a recipe without one")
    own = {option: getattr(config, option) for option in _OF_THE_RUN}
    data = {option: getattr(config.data, option) for option in _DATA_OF_THE_RUN}
    changed = own | {
        "out": folder / TEACHER,
        "data": replace(recipe.data, **data),
        "precision": "bf16" if config.precision == "fp8" else config.precision,  # float8 is for the blocks of ViTs
        "eval_every_epochs": math.ceil(recipe.epochs),
        "eval_averaging": "none",
    }
    draft = reset_unused(_Draft(**_options(recipe) | changed), keep=())
    return Config(**_options(draft))


@dataclass(frozen=True, kw_only=True)
class _Draft(Config):
    """A config whose options may be of no use yet."""

    def __post_init__(self) -> None:
        """Left to the `Config` that comes of it."""


def _options(config: Config) -> dict[str, Any]:
    return {option.name: getattr(config, option.name) for option in fields(Config)}


def check_teacher(config: Config, world: World) -> None:
    """Refuse a teacher that a run could not train or not ask, at once, before it has been trained for nothing.

    Raises:
        FastvitError: The recipe does not fit the run.
    """
    if config.distill.preset is None:
        return
    try:
        teacher = teacher_config(config, Path())
        share_of_batch(teacher, world.world_size)
        _check_sizes(teacher, config)
    except FastvitError as error:
        raise FastvitError(f"--distill.preset {config.distill.preset} cannot be the teacher: {error}") from error


def _phases(teacher: Config, student: Config) -> tuple[tuple[float, int, float], ...]:
    """What images the run has for its teacher besides the last ones, as `build_model` takes it."""
    sides = [side for _, side, _ in student.phases] + [student.data.resolution]
    return tuple((1.0, teacher_side(side, teacher, student), 0.0) for side in sides)


def _check_sizes(teacher: Config, student: Config) -> None:
    resolution, phases = teacher.data.resolution, _phases(teacher, student)
    check_resolution(teacher.arch, resolution=resolution, config=teacher.model, phases=phases)


def build_teacher(config: Config, student: Config, num_classes: int) -> Teacher:
    """A teacher with random weights, for all image sizes of the run that learns from it.

    Args:
        config: Of the teacher's training.
        student: The run.
        num_classes: What the teacher tells apart.

    Raises:
        FastvitError: It cannot take images of these sizes.
    """
    _check_sizes(config, student)
    model = build_model(
        config.arch,
        num_classes=num_classes,
        resolution=config.data.resolution,
        config=config.model,
        phases=_phases(config, student),
    )
    return Teacher(model=model, config=config, student=student, num_classes=num_classes)


def untrained_teacher(config: Config, folder: Path, num_classes: int) -> Teacher | None:
    """A teacher with random weights, which takes as long as a trained one; None where the run has none.

    Raises:
        FastvitError: The run names one that is trained already.
    """
    if not config.distill.is_on:
        return None
    if config.distill.preset is None:
        raise FastvitError(
            "name the recipe of the teacher with --distill.preset: distill.teacher is for training alone"
        )
    return build_teacher(teacher_config(config, folder), config, num_classes)


def teacher_flops_per_image(config: Config, resolution: int) -> float:
    """`Teacher.flops_per_image` of the teacher that a run trains, counted without one; 0 where it has none."""
    with torch.device("meta"):
        teacher = untrained_teacher(config, Path(), num_classes=1)
    return 0.0 if teacher is None else teacher.flops_per_image(resolution)


def _scale_and_offset(given: AugmentConfig, own: AugmentConfig) -> tuple[Tensor, Tensor]:
    """What images with one normalisation are multiplied by, and what is added, so that they have the other."""
    mean, std, own_mean, own_std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (given.mean, given.std, own.mean, own.std)
    )
    return std / own_std, (mean - own_mean) / own_std
