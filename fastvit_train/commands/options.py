"""The options of the commands, apart from what they do, so that `--help` need not wait for torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from loaders import BACKENDS
from loaders.crop import Interpolation
from loaders.errors import FastvitError

__all__ = ["COMMANDS", "Eval", "Export", "ExportFormat", "Predict"]

ExportFormat = Literal["safetensors", "onnx", "torch-export"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Eval:
    """Evaluate a trained model on a dataset: top-1, top-5, loss and images per second.

    What is not given is as the run had it. Classes are found by name where the model and the dataset have names for
    them, else by number.
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder (its best.pt, else its checkpoint.pt), or one of these files."""
    data: tyro.conf.DisallowNone[Path | None] = None
    """The images; the run's data.val when not given."""
    label_map: tyro.conf.DisallowNone[Path | None] = None
    """A JSON object from the dataset's classes (names, or numbers as text) to those of the model (names or numbers);
    classes that it leaves out are found by name."""
    restrict_classes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Predict among the classes of the dataset alone, as ImageNet-A and ImageNet-R are evaluated."""
    real: tyro.conf.DisallowNone[Path | None] = None
    """ReaL labels, as real.json of google-research/reassessed-imagenet: for each image a list of all that is right;
    images with an empty list do not count."""
    resolution: tyro.conf.DisallowNone[int | None] = None
    """Side of the images in pixels; position embeddings are interpolated."""
    center_fraction: tyro.conf.DisallowNone[float | None] = None
    """Share of the short side that the center crop keeps."""
    interpolation: tyro.conf.DisallowNone[Interpolation | None] = None
    """Filter of the resize."""
    averaging: tyro.conf.DisallowNone[Literal["none", "flip", "flip_shift"] | None] = None
    """Also report the accuracy of predictions averaged over mirrored (and shifted) images."""
    batch_size: int = 256
    """Images at once, over all devices."""
    backend: tyro.conf.DisallowNone[str | None] = None
    """Loader: native, dali, ffcv, nvjpeg, resident or torch. Where the run's dali or nvjpeg cannot be had, native."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    precision: tyro.conf.DisallowNone[Literal["auto", "bf16", "fp16", "fp32"] | None] = None
    """What the model computes in."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        if self.restrict_classes and self.real is not None:
            raise FastvitError("real goes with predictions among all classes; leave restrict_classes out")
        if self.backend is not None and self.backend not in BACKENDS:
            raise FastvitError(f"backend must be one of {', '.join(sorted(BACKENDS))}, got {self.backend}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Predict:
    """Name the classes of images, cropped and resized as for the run's validation.

    A file that cannot be decoded is named, and the others go on; the exit code is then 1.
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder (its best.pt, else its checkpoint.pt), or one of these files."""
    files: tyro.conf.Positional[tuple[str, ...]]
    """Images, folders (with all images below them) and patterns such as 'photos/*.jpg'."""
    top_k: int = 5
    """Classes to name for each image, the most probable first."""
    format: Literal["table", "json", "csv"] = "table"
    """A table for people, a JSON list with an object for each image, or CSV with a line for each image and class."""
    out: tyro.conf.DisallowNone[Path | None] = None
    """Write to this file instead of the terminal."""
    batch_size: int = 64
    """Images at once."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    precision: tyro.conf.DisallowNone[Literal["auto", "bf16", "fp16", "fp32"] | None] = None
    """What the model computes in; as in the run when not given."""

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        if not self.files:
            raise FastvitError("no image is named; give files, folders or patterns such as 'photos/*.jpg'")
        if self.top_k < 1:
            raise FastvitError(f"top_k must be positive, got {self.top_k}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Write a trained model for use elsewhere, with a model card; each file is loaded again and compared.

    safetensors with a config.json loads with timm and takes normalised floats; onnx and torch-export take uint8
    [batch, 3, height, width] and normalise by themselves.
    """

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder (its best.pt, else its checkpoint.pt), or one of these files."""
    out: Path
    """The folder to write; it must not exist yet."""
    format: tuple[ExportFormat, ...] = ("safetensors",)
    """One or several of safetensors, onnx (needs fastvit[export]) and torch-export."""

    def __post_init__(self) -> None:
        if not self.format or len(set(self.format)) < len(self.format):
            raise FastvitError(f"format must name each format once, got {' '.join(self.format) or 'none'}")


COMMANDS: dict[str, type[Eval | Predict | Export]] = {"eval": Eval, "predict": Predict, "export": Export}
"""The commands by name."""


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise FastvitError(f"batch_size must be positive, got {batch_size}")
