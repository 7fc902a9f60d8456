"""The configuration: frozen dataclasses from which the command line is made, saved with each run as JSON."""

import dataclasses
import itertools
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastvit_train._recipe_config import ModelConfig, MuonConfig, OptimConfig, ScheduleConfig
from fastvit_train._recipe_config import require as _require
from loaders import BACKENDS
from loaders.crop import Crop
from loaders.order import Order

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "MuonConfig",
    "OptimConfig",
    "ScheduleConfig",
    "from_dict",
    "to_dict",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is loaded and how."""

    train: Path = Path("data/imagenet_train.beton")
    """Training images: a .beton file, or for all backends but ffcv an ImageFolder or tar shards (a folder, a .tar file
    or a pattern)."""
    val: Path = Path("data/imagenet_val.beton")
    """Validation images."""
    backend: str = "native"
    """Loader: native (our engine), ffcv, resident (the decoded dataset lives on the device), synthetic (noise, for
    timing) or torch."""
    resolution: int = 224
    """Side of the images that the model sees, in pixels."""
    crop: Crop = "random_resized"
    """Training crop; validation crops the center, or takes the whole image where training does. random_resized and
    shift mirror at random."""
    area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random resized crop takes."""
    max_shift: int = 4
    """How far the crop shift moves the whole image at most, in pixels."""
    order: Order = "random"
    """Training order; quasi_random reads runs of neighbouring records, for data larger than memory."""
    num_workers: int = 2
    """Threads or processes that load."""
    prefetch_batches: int = 2
    """Batches that native makes ahead of the one that it handed over."""
    scaled_decode: bool = False
    """native decodes a JPEG for training at 1/2, 1/4 or 1/8 of its size where the crop is at least so much larger than
    the resolution: faster, but not the same pixels; validation always decodes in full."""
    on_error: Literal["raise", "skip"] = "raise"
    """A sample that cannot be decoded ends the run by name, or is left out and counted."""

    def __post_init__(self) -> None:
        _require(self.backend in BACKENDS, "data.backend", f"be one of {', '.join(sorted(BACKENDS))}", self.backend)
        _require(self.resolution > 0, "data.resolution", "be positive", self.resolution)
        _require(self.num_workers >= 0, "data.num_workers", "not be negative", self.num_workers)
        _require(self.prefetch_batches > 0, "data.prefetch_batches", "be positive", self.prefetch_batches)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """What happens to a batch on the device."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror left to right, at random or every other epoch; the crops random_resized and shift have a flip of their
    own."""
    shift: int = 0
    """Shift by up to this many pixels in both directions, the border reflected."""
    policy: Literal["none", "randaugment", "autoaugment", "trivial", "three"] = "none"
    """Random operations: RandAugment, AutoAugment (its policy for CIFAR-10), TrivialAugment (wide) or 3-Augment, which
    goes with a color_jitter of 0.3."""
    num_ops: int = 2
    """Operations that RandAugment applies to an image, one after another."""
    magnitude: int = 9
    """Strength of RandAugment's operations, from 0 to 30."""
    color_jitter: float = 0.0
    """Change brightness, contrast and saturation by factors up to this far from 1."""
    erasing_probability: float = 0.0
    """Share of the images of which a random box is erased."""
    mixup_alpha: float = 0.0
    """Mix pairs of images and their labels in shares from Beta(alpha, alpha); 0 is never."""
    cutmix_alpha: float = 0.0
    """Paste a box of another image, its area as a share from Beta(alpha, alpha), and mix the labels; 0 is never."""
    switch_probability: float = 0.5
    """Share of the images that get cutmix where both mixup and cutmix are on."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel, of values in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel, of values in [0, 1]."""

    def __post_init__(self) -> None:
        _require(self.shift >= 0, "augment.shift", "not be negative", self.shift)
        _require(self.num_ops > 0, "augment.num_ops", "be positive", self.num_ops)
        _require(0 <= self.magnitude <= 30, "augment.magnitude", "lie in [0, 30]", self.magnitude)
        _require(0 <= self.color_jitter <= 1, "augment.color_jitter", "lie in [0, 1]", self.color_jitter)
        for name in ("erasing_probability", "switch_probability"):
            _require(0 <= getattr(self, name) <= 1, f"augment.{name}", "lie in [0, 1]", getattr(self, name))
        for name in ("mixup_alpha", "cutmix_alpha"):
            _require(getattr(self, name) >= 0, f"augment.{name}", "not be negative", getattr(self, name))
        _require(min(self.std) > 0, "augment.std", "be positive", self.std)

    @property
    def is_plain(self) -> bool:
        """Whether images are at most flipped and shifted."""
        strengths = (self.color_jitter, self.erasing_probability, self.mixup_alpha, self.cutmix_alpha)
        return self.policy == "none" and not any(strengths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train an image classifier."""

    preset: str | None = None
    """Name of the recipe that the other options change."""
    arch: str = "vit_b16"
    """Model: a short name (vit_b16, vit_s16, vit_ti16, vit_small_cifar, resnet18, resnet50, ...) or timm/NAME."""
    epochs: float = 130
    """Length of the run, and of the learning-rate schedule."""
    max_steps: int | None = None
    """Stop after this many optimizer steps; the schedule spans `epochs` all the same."""
    batch_size: int = 256
    """Images per device and step."""
    seed: int = 0
    """Decides weights, order, crops and augmentation."""
    init_from: Path | None = None
    """Start from the weights in this file instead of random ones: a run's checkpoint.pt or best.pt, or timm's weights
    (.safetensors, .pth). The head is new where the number of classes differs; position embeddings are interpolated."""
    out: Path | None = None
    """Run folder; runs/PRESET or runs/ARCH with a number behind it when not given."""
    resume: Literal["never", "auto"] = "never"
    """auto goes on from the run folder's checkpoint where there is one, else starts anew."""
    checkpoint_every_steps: int | None = None
    """Write the checkpoint every so many steps, besides the end of each epoch."""
    log_every_steps: int = 10
    """Read and log the metrics every so many steps."""
    eval_every_epochs: int = 1
    """Evaluate after every so many epochs; always after the last."""
    eval_averaging: Literal["none", "flip", "flip_shift"] = "none"
    """Also report the accuracy of predictions averaged over mirrored (and shifted) images, apart from the plain one."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross entropy, or binary cross entropy of every class on its own."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, their gradients summed: the same step in less memory."""
    ema_half_life_epochs: float = 0.0
    """Evaluate an exponential moving average of the weights, in which a step counts half as much after so many epochs;
    0 evaluates the weights themselves."""
    phases: tuple[tuple[float, int, float], ...] = ()
    """Cheaper epochs to begin with, as triples: the share of the run at which the phase ends, the resolution in pixels
    and the patch dropout. After the last, data.resolution and model.patch_drop hold; the schedule spans them all."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast; auto takes it where the device computes in it."""
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    """torch.compile mode; auto is default on cuda and off on the CPU, where it gains nothing for
    the model: there it compiles the augmentation alone, where that does more than flip and shift."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        _require(self.epochs > 0, "epochs", "be positive", self.epochs)
        _require(self.max_steps is None or self.max_steps > 0, "max_steps", "be positive", self.max_steps)
        _require(self.batch_size > 0, "batch_size", "be positive", self.batch_size)
        _require(self.log_every_steps > 0, "log_every_steps", "be positive", self.log_every_steps)
        _require(self.eval_every_epochs > 0, "eval_every_epochs", "be positive", self.eval_every_epochs)
        every = self.checkpoint_every_steps
        _require(every is None or every > 0, "checkpoint_every_steps", "be positive", every)
        _require(0 <= self.seed < 2**63, "seed", "lie in [0, 2^63)", self.seed)
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "lie in [0, 1)", self.label_smoothing)
        parts = self.accumulate
        _require(
            parts > 0 and self.batch_size % parts == 0, "accumulate", f"divide batch_size {self.batch_size}", parts
        )
        _require(self.ema_half_life_epochs >= 0, "ema_half_life_epochs", "not be negative", self.ema_half_life_epochs)
        _check_phases(self.phases)


def _check_phases(phases: tuple[tuple[float, int, float], ...]) -> None:
    ends = [0.0, *(end for end, _, _ in phases)]
    rising = all(earlier < later for earlier, later in itertools.pairwise(ends)) and ends[-1] <= 1
    _require(rising, "phases", "end at rising shares of the run, in (0, 1]", phases)
    possible = all(resolution > 0 and 0 <= patch_drop < 1 for _, resolution, patch_drop in phases)
    _require(possible, "phases", "have positive resolutions and patch dropouts in [0, 1)", phases)


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def from_dict(values: dict[str, Any]) -> Config:
    """The config that `to_dict` made `values` from.

    Raises:
        ValueError: A name is unknown or a value is not allowed.
    """
    config: Config = _build(Config, values, "")
    return config


def _build(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - the type is the argument
    """`value`, made of JSON types, as an instance of the annotated type `kind`."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or (unknown := sorted(set(value) - set(hints))):
            problem = f"unknown option {name}{unknown[0]}" if isinstance(value, dict) else f"{name} must be an object"
            raise ValueError(f"{problem}; the config may come from another version")
        return typing.cast("Any", kind)(
            **{key: _build(hints[key], item, f"{name}{key}.") for key, item in value.items()}
        )
    if isinstance(kind, types.UnionType):
        return None if value is None else _build(typing.get_args(kind)[0], value, name)
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ValueError(f"{name.removesuffix('.')} must be a list of {len(kinds)} values, got {value}")
        return tuple(_build(item_kind, item, name) for item_kind, item in zip(kinds, value, strict=True))
    return Path(value) if kind is Path else value
