"""The teacher of a run that distills: a trained model whose answers the run's model learns besides the labels."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvit_train.config import AugmentConfig, Config
from fastvit_train.flops import forward_flops_per_image
from fastvit_train.models import build_model, check_resolution
from fastvit_train.models.device_kernels import use_fast_modules
from fastvit_train.presets import build_preset
from loaders.errors import FastvitError

__all__ = [
    "TEACHER",
    "Teacher",
    "build_teacher",
    "teacher_config",
    "teacher_phases",
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
    path: Path | None = None
    """Its checkpoint; None for random weights."""
    top1: float | None = None
    """Its accuracy."""
    seconds: float | None = None
    """What its training and evaluation took in this run; None where it was trained before."""
    checksum: int = 0
    """Of its weights."""
    _scale: Tensor | None = None
    _offset: Tensor | None = None

    def __post_init__(self) -> None:
        """Nothing of it is trained, and its batch norms know their statistics."""
        self.model.eval().requires_grad_(False)
        for tensor in self.model.state_dict().values():
            self.checksum = zlib.crc32(tensor.flatten().view(torch.uint8).numpy(), self.checksum)

    @property
    def description(self) -> str:
        """What tells it from others."""
        return f"{self.config.arch} with weight checksum {self.checksum:08x}"

    def place(self, device: torch.device) -> None:
        """Move it to where the run computes."""
        self.model.to(device).to(memory_format=torch.channels_last)
        use_fast_modules(self.model, device)
        mine, theirs = self.config.augment, self.student.augment
        if (mine.mean, mine.std) != (theirs.mean, theirs.std):
            self._scale, self._offset = (part.to(device) for part in _renormalization(theirs, mine))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Its float32 logits [b, num_classes] of images [b, 3, h, w] as the run's model gets them."""
        side = teacher_side(images.shape[-1], self.config, self.student)
        if self._scale is not None and self._offset is not None:
            images = (images.float() * self._scale + self._offset).to(images.dtype)
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


def teacher_phases(teacher: Config, student: Config) -> tuple[tuple[float, int, float], ...]:
    """`Config.phases` of the run in the teacher's sizes, with all patches."""
    return tuple((end, teacher_side(side, teacher, student), 0.0) for end, side, _ in student.phases)


def teacher_config(config: Config, folder: Path) -> Config:
    """The training of the teacher whose recipe a run names.

    Its accuracy is looked at once, at the end: its time is a part of the run's.

    Args:
        config: The run.
        folder: Of the run.

    Raises:
        FastvitError: The recipe is unknown, or does not go together with the run's options.
    """
    name, epochs = config.distill.preset, config.distill.epochs
    if name is None:
        raise FastvitError("distill.preset names no recipe")
    recipe = build_preset(name, epochs=epochs)
    if recipe.distill.is_on:
        raise FastvitError(f"distill.preset must be a recipe without a teacher of its own, got {name}")
    return replace(
        recipe,
        out=folder / TEACHER,
        data=replace(recipe.data, **{option: getattr(config.data, option) for option in _DATA_OF_THE_RUN}),
        precision="bf16" if config.precision == "fp8" else config.precision,  # float8 is for the blocks of ViTs
        eval_every_epochs=math.ceil(recipe.epochs),
        eval_averaging="none",
        **{option: getattr(config, option) for option in _OF_THE_RUN},
    )


def build_teacher(
    config: Config,
    student: Config,
    num_classes: int,
    *,
    weights: Mapping[str, Tensor] | None = None,
    path: Path | None = None,
    top1: float | None = None,
    seconds: float | None = None,
) -> Teacher:
    """A teacher for all image sizes of the run that learns from it.

    Args:
        config: Of the teacher's training.
        student: The run.
        num_classes: What the teacher tells apart.
        weights: Its weights; random ones when not given.
        path: See `Teacher`, as for the others.
        top1: See there.
        seconds: See there.

    Raises:
        FastvitError: It cannot take images of these sizes.
    """
    phases = teacher_phases(config, student)
    side = config.data.resolution
    check_resolution(config.arch, resolution=side, config=config.model, phases=phases)
    model = build_model(config.arch, num_classes=num_classes, resolution=side, config=config.model, phases=phases)
    if weights is not None:
        model.load_state_dict(weights)
    return Teacher(model=model, config=config, student=student, path=path, top1=top1, seconds=seconds)


def untrained_teacher(config: Config, folder: Path, num_classes: int) -> Teacher | None:
    """A teacher with random weights, which takes as long as a trained one; None where the run has none."""
    if not config.distill.is_on:
        return None
    return build_teacher(teacher_config(config, folder), config, num_classes)


def _renormalization(theirs: AugmentConfig, mine: AugmentConfig) -> tuple[Tensor, Tensor]:
    """What images normalised by `theirs` are multiplied by, and what is added, to be normalised by `mine`."""
    mean, std, my_mean, my_std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (theirs.mean, theirs.std, mine.mean, mine.std)
    )
    return std / my_std, (mean - my_mean) / my_std
