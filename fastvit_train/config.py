"""The configuration: frozen dataclasses from which the command line is made."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastvit_train.option_rules import refuse_unused
from loaders import BACKENDS
from loaders.crop import Crop, Interpolation
from loaders.option_checks import check_types, require
from loaders.order import Order
from loaders.orientation import ExifOrientation

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AugmentConfig",
    "CompileMode",
    "Config",
    "DataConfig",
    "DistillConfig",
    "ModelConfig",
    "MuonConfig",
    "OptimConfig",
    "Precision",
    "ScheduleConfig",
]

CompileMode = Literal["auto", "off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Precision = Literal["auto", "bf16", "fp16", "fp32", "fp8"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is loaded and how."""

    train: Path = Path("data/imagenet_train.beton")
    """Training images: a .beton file, or for all backends but ffcv an ImageFolder or tar or TFRecord shards (a
    folder, a file or a pattern)."""
    val: Path = Path("data/imagenet_val.beton")
    """Validation images. Where both have names for their classes (folders, cards), these are found by name."""
    classes: Path | None = None
    """Names for the classes of training images that have none, by label: a file with a JSON list or one name on each
    line."""
    backend: str = "native"
    """Loader: native (our engine), dali (NVIDIA DALI), ffcv, nvjpeg (torchvision's decoder on the GPU), resident (the
    decoded dataset lives on the device), synthetic (noise, for timing) or torch."""
    resolution: int = 224
    """Side of the images that the model sees, in pixels."""
    crop: Crop = "random_resized"
    """Training crop; validation crops the center, or takes the whole image where training does. random_resized and
    shift mirror at random."""
    area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random resized crop takes."""
    max_shift: int = 4
    """How far the crop shift moves the whole image at most, in pixels."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest shape, width / height, of a random resized crop."""
    center_fraction: float = 224 / 256
    """Share of the short side that a center crop keeps, for validation."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize, antialiased: bilinear or bicubic; ffcv has a filter of its own."""
    exif_orientation: ExifOrientation = "ignore"
    """apply turns images upright as their EXIF data says, which photos of phones need; ignore takes them as they are
    stored."""
    order: Order = "random"
    """Training order; quasi_random reads runs of neighbouring records, for data larger than memory."""
    repeats: int = 1
    """Times that each image comes in a batch, each time augmented differently (repeated augmentation); an epoch then
    has a share of the images, so that its length stays."""
    num_workers: int | None = None
    """Threads that load, or processes with the backend torch; when not given, as many as the CPUs that this process may
    use (affinity, and the container's quota), shared among the ranks of this machine. 0 is for torch alone, which then
    loads in the process that trains."""
    timeout_seconds: float = 600.0
    """End the run, with the stacks of all threads, when a batch does not come within so many seconds."""
    prefetch_batches: int = 2
    """Batches that native, dali and nvjpeg make ahead of the one that they handed over."""
    decode: Literal["auto", "cpu", "mixed"] = "auto"
    """Where dali decodes: cpu, mixed (on the GPU), or auto: on the GPU where device is cuda."""
    scaled_decode: bool = False
    """native decodes a JPEG for training at 1/2, 1/4 or 1/8 of its size where the crop is at least so much larger than
    the resolution: faster, but not the same pixels; validation always decodes in full."""
    on_error: Literal["raise", "skip"] = "raise"
    """A sample that cannot be decoded ends the run by name, or is left out and counted."""

    def __post_init__(self) -> None:
        check_types(self, "data.")
        require(self.backend in BACKENDS, "data.backend", f"be one of {', '.join(sorted(BACKENDS))}", self.backend)
        require(self.resolution > 0, "data.resolution", "be positive", self.resolution)
        workers = self.num_workers
        require(workers is None or workers >= 0, "data.num_workers", "not be negative", workers)
        require(0 < self.area[0] <= self.area[1] <= 1, "data.area", "be a range in (0, 1]", self.area)
        require(0 < self.ratio[0] <= self.ratio[1], "data.ratio", "be a range of positive numbers", self.ratio)
        require(self.max_shift >= 0, "data.max_shift", "not be negative", self.max_shift)
        require(0 < self.center_fraction <= 1, "data.center_fraction", "lie in (0, 1]", self.center_fraction)
        require(self.repeats > 0, "data.repeats", "be positive", self.repeats)
        require(self.timeout_seconds > 0, "data.timeout_seconds", "be positive", self.timeout_seconds)
        require(self.prefetch_batches > 0, "data.prefetch_batches", "be positive", self.prefetch_batches)

    @property
    def needs_gpu(self) -> bool:
        """Whether images are decoded on a GPU, and nowhere else."""
        return self.backend == "nvjpeg" or self.decode == "mixed"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What changes a model; a model that has no such option refuses it by name."""

    drop_path: float = 0.0
    """Share of the residual branches of the last block that training leaves out (stochastic depth); less before it."""
    patch_drop: float = 0.0
    """Share of a ViT's patches that training leaves out."""
    pooling: Literal["avg", "token"] | None = None
    """A ViT classifies the mean of its patches, without a class token, or the class token; as timm has it when not
    given."""
    qk_norm: bool = False
    """A ViT's queries and keys are normalised."""
    positions: Literal["learned", "sincos2d"] = "learned"
    """A ViT's position embeddings: learned, or sines and cosines that stay as they are."""
    mimetic_init: bool = False
    """A ViT's attention starts as trained ones look (arXiv 2305.09828); made for positions sincos2d."""
    zero_residual: bool = False
    """Every residual branch of a ViT starts at zero, so that every block starts as the identity."""
    whiten_patches: bool = False
    """The patch embedding of a ViT starts as a random rotation of whitened patches, from the first batch of images."""
    bf16_residual: bool = False
    """A ViT's blocks add to a bf16 sum under bf16 autocast, instead of a float32 one: less memory traffic."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        require(0 <= self.drop_path < 1, "model.drop_path", "lie in [0, 1)", self.drop_path)
        require(0 <= self.patch_drop < 1, "model.patch_drop", "lie in [0, 1)", self.patch_drop)
        both = self.mimetic_init and self.zero_residual
        require(not both, "model.zero_residual", "be off with model.mimetic_init, which sets the same weights", True)


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
        check_types(self, "augment.")
        require(self.shift >= 0, "augment.shift", "not be negative", self.shift)
        require(self.num_ops > 0, "augment.num_ops", "be positive", self.num_ops)
        require(0 <= self.magnitude <= 30, "augment.magnitude", "lie in [0, 30]", self.magnitude)
        require(0 <= self.color_jitter <= 1, "augment.color_jitter", "lie in [0, 1]", self.color_jitter)
        for name in ("erasing_probability", "switch_probability"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", "lie in [0, 1]", getattr(self, name))
        for name in ("mixup_alpha", "cutmix_alpha"):
            require(getattr(self, name) >= 0, f"augment.{name}", "not be negative", getattr(self, name))
        require(0 <= min(self.mean) <= max(self.mean) <= 1, "augment.mean", "lie in [0, 1]", self.mean)
        require(0 < min(self.std) <= max(self.std) <= 1, "augment.std", "lie in (0, 1]", self.std)

    @property
    def is_plain(self) -> bool:
        """Whether images are at most flipped and shifted."""
        strengths = (self.color_jitter, self.erasing_probability, self.mixup_alpha, self.cutmix_alpha)
        return self.policy == "none" and not any(strengths)


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonConfig:
    """Muon, for optim.name muon: it trains the matrices between the first layer and the classifier."""

    lr: float = 0.02
    """Highest learning rate of the matrices; optim.lr is that of all the rest."""
    momentum: float = 0.95
    """Nesterov momentum."""
    weight_decay: float = 0.0
    """Decay of the matrices, multiplied by the learning rate; optim.weight_decay is that of all the rest."""
    num_iterations: int = 5
    """Newton-Schulz iterations that make an update orthogonal."""
    normalize: bool = False
    """Before each step set a matrix's norm to the root of its number of rows; only where a normalisation layer follows
    each matrix."""
    rest: Literal["adamw", "sgd"] = "adamw"
    """Optimizer of all the rest: biases, normalisation, embeddings, first layer and classifier."""

    def __post_init__(self) -> None:
        check_types(self, "optim.muon.")
        require(self.lr > 0, "optim.muon.lr", "be positive", self.lr)
        require(0 <= self.momentum < 1, "optim.muon.momentum", "lie in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "optim.muon.weight_decay", "not be negative", self.weight_decay)
        require(0 < self.num_iterations < 100, "optim.muon.num_iterations", "lie in [1, 99]", self.num_iterations)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer; weight decay is for the weights of linear and convolution layers alone."""

    name: Literal["adamw", "sgd", "lamb", "muon"] = "adamw"
    """AdamW, SGD with momentum, LAMB, or Muon for matrices with optim.muon.rest for all the rest."""
    lr: float = 1e-3
    """Highest learning rate."""
    norm_bias_lr_factor: float = 1.0
    """Factor on the learning rate of the normalisation layers' biases."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one before it, down from the classifier; for fine-tuning."""
    weight_decay: float = 0.1
    """Decay of the weights, multiplied by the learning rate as torch's optimizers do."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's and LAMB's decay rates."""
    momentum: float = 0.9
    """SGD's momentum."""
    nesterov: bool = True
    """SGD looks ahead by one step of its momentum (Nesterov); plain momentum when off. Muon's rest sgd does so too."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    muon: MuonConfig = field(default_factory=MuonConfig)

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        require(self.lr > 0, "optim.lr", "be positive", self.lr)
        factor = self.norm_bias_lr_factor
        require(factor >= 0, "optim.norm_bias_lr_factor", "not be negative", factor)
        require(0 < self.layer_decay <= 1, "optim.layer_decay", "lie in (0, 1]", self.layer_decay)
        require(self.weight_decay >= 0, "optim.weight_decay", "not be negative", self.weight_decay)
        require(0 <= min(self.betas) <= max(self.betas) < 1, "optim.betas", "lie in [0, 1)", self.betas)
        require(0 <= self.momentum < 1, "optim.momentum", "lie in [0, 1)", self.momentum)
        require(self.clip_norm >= 0, "optim.clip_norm", "not be negative", self.clip_norm)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """The learning rate over the run: up in a line, then down."""

    decay: Literal["cosine", "linear"] = "cosine"
    """Shape of the way down."""
    warmup_epochs: float = 5.0
    """Epochs of the way up."""
    start_fraction: float = 0.0
    """Share of the highest learning rate at the first step."""
    end_fraction: float = 0.0
    """Share of the highest learning rate after the last step."""

    def __post_init__(self) -> None:
        check_types(self, "schedule.")
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", "not be negative", self.warmup_epochs)
        for name in ("start_fraction", "end_fraction"):
            require(0 <= getattr(self, name) <= 1, f"schedule.{name}", "lie in [0, 1]", getattr(self, name))


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """What the model learns from another one, its teacher; without preset and teacher there is none."""

    preset: str | None = None
    """Recipe of a teacher that the run trains first, in the folder teacher of its own."""
    epochs: float | None = None
    """Length of the teacher's training; as its recipe has it when not given."""
    teacher: Path | None = None
    """A teacher that is trained already, in place of preset: a run folder, or a run's checkpoint.pt or best.pt."""
    kind: Literal["soft", "hard"] = "soft"
    """What the teacher says of an image: the share of every class (soft), or the likeliest class alone (hard)."""
    weight: float = 0.5
    """Share of the loss that compares with the teacher instead of the labels."""
    temperature: float = 1.0
    """For kind soft: both models' logits are divided by it, so that unlikely classes count more."""

    def __post_init__(self) -> None:
        check_types(self, "distill.")
        require(self.epochs is None or self.epochs > 0, "distill.epochs", "be positive", self.epochs)
        require(0 < self.weight <= 1, "distill.weight", "lie in (0, 1]", self.weight)
        require(self.temperature > 0, "distill.temperature", "be positive", self.temperature)

    @property
    def is_on(self) -> bool:
        """Whether there is a teacher."""
        return self.preset is not None or self.teacher is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Train an image classifier."""

    preset: str | None = None
    """Name of the recipe that the other options change."""
    arch: str = "vit_b16"
    """Model: a short name (vit_b16, vit_s16, vit_ti16, vit_small_cifar, resnet18, resnet50, ...) or timm/NAME. On the
    command line it starts from its own preset, or from that of its family."""
    epochs: float = 130
    """Length of the run, and of the learning-rate schedule."""
    max_steps: int | None = None
    """Stop after this many optimizer steps; the schedule spans `epochs` all the same."""
    batch_size: int = 256
    """Images per step, over all devices: each takes an equal share of them, in `accumulate` parts."""
    seed: int = 0
    """Decides weights, order, crops and augmentation."""
    init_from: Path | None = None
    """Start from the weights in this file instead of random ones: a run's checkpoint.pt or best.pt, or weights of timm
    or another program (.safetensors, .pth). The head is new where the number of classes differs; position embeddings
    are interpolated."""
    out: Path | None = None
    """Run folder; when not given, runs/PRESET with a number behind it, or runs/ARCH where the preset was made for
    another model."""
    resume: Literal["never", "auto"] = "never"
    """auto continues from the checkpoint in the run folder if there is one, else starts from the beginning."""
    checkpoint_every_steps: int | None = None
    """Write a checkpoint every so many steps as well."""
    checkpoint_every_epochs: int = 1
    """Write a checkpoint at the end of every so many epochs; always after the last."""
    checkpoint_every_minutes: float | None = None
    """Write a checkpoint when the last one is so many minutes old as well; looked at every log_every_steps."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, the newest included; the best weights are kept apart."""
    log_every_steps: int = 10
    """Read and log the metrics every so many steps."""
    eval_every_epochs: int = 1
    """Evaluate after every so many epochs; always after the last."""
    eval_averaging: Literal["none", "flip", "flip_shift"] = "none"
    """Also report the accuracy of predictions averaged over mirrored (and shifted) images, apart from the plain one.
    Shifted ones, by a pixel down and right or up and left, count half."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross entropy, or binary cross entropy of every class on its own."""
    bce_target_threshold: float | None = None
    """For the loss bce: a class with more than this share of a mixed image's target counts as wholly there, the others
    as not there; the shares themselves when not given. Without label_smoothing, of which it would leave nothing."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    accumulate: int | None = None
    """Parts that a batch is computed in, one after the other, their gradients summed: the same step in less memory.
    When not given, as few as fit into a GPU's memory, and on the CPU parts that are small enough to be fast; one with
    batch normalisation, whose statistics are those of a part."""
    ema_half_life_epochs: float = 0.0
    """Evaluate an exponential moving average of the weights, in which a step counts half as much after so many epochs;
    0 evaluates the weights themselves."""
    phases: tuple[tuple[float, int, float], ...] = ()
    """Cheaper epochs to begin with, as triples: the share of the run at which the phase ends, the resolution in pixels
    and the patch dropout. After the last, data.resolution and model.patch_drop hold; the schedule spans them all."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    precision: Precision = "auto"
    """Autocast to bf16, or to fp16 with a scaled loss (for GPUs before Ampere); auto takes bf16 where the device
    computes in it, else fp16 on cuda and fp32 on the CPU. fp8 is bf16 with the large matmuls of a ViT's blocks in
    float8, on cards from Ada and Hopper on; it needs pip install 'fastvit[fp8]'."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several devices, each has the whole model (ddp), or a share of its weights and optimizer state (fsdp), for
    models that do not fit."""
    sync_batch_norm: bool = False
    """Batch normalisation takes its statistics over all devices."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Send the metrics to these as well: tensorboard (into the run folder), wandb, mlflow (where their own environment
    variables say). They need pip install 'fastvit[track]'."""
    compile: CompileMode = "auto"
    """torch.compile mode; auto is default on cuda and off on the CPU, where it gains nothing for
    the model: there it compiles the augmentation alone, where that does more than flip and shift and a C++ compiler is
    there."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Make training steps from a CUDA graph, which the host queues at once instead of kernel by kernel; not in float16,
    and not with optim.name lamb. auto does so with one cuda device. A graph keeps the memory of a step for itself."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("epochs", "batch_size", "log_every_steps", "eval_every_epochs", "keep_checkpoints"):
            require(getattr(self, name) > 0, name, "be positive", getattr(self, name))
        for name in ("max_steps", *(f"checkpoint_every_{unit}" for unit in ("steps", "epochs", "minutes"))):
            value = getattr(self, name)
            require(value is None or value > 0, name, "be positive", value)
        require(0 <= self.seed < 2**63, "seed", "lie in [0, 2^63)", self.seed)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "lie in [0, 1)", self.label_smoothing)
        threshold = self.bce_target_threshold
        require(threshold is None or 0 <= threshold < 1, "bce_target_threshold", "lie in [0, 1)", threshold)
        smooth = threshold is not None and self.label_smoothing > 0
        require(not smooth, "label_smoothing", "be 0 with bce_target_threshold", self.label_smoothing)
        require(self.ema_half_life_epochs >= 0, "ema_half_life_epochs", "not be negative", self.ema_half_life_epochs)
        require(self.device in ("auto", "cuda", "cpu"), "device", "be auto, cuda or cpu", self.device)
        require(len(set(self.trackers)) == len(self.trackers), "trackers", "name each only once", self.trackers)
        _check_phases(self.phases)
        self._check_shifts()
        self._check_parts()
        refuse_unused(self)

    def _check_shifts(self) -> None:
        """A shift must leave something of the image to reflect, also in the phase of the smallest images."""
        side = min([self.data.resolution, *(resolution for _, resolution, _ in self.phases)])
        shift, of_crop = self.augment.shift, self.data.max_shift
        require(shift < side, "augment.shift", f"be below {side}, the side of the smallest images", shift)
        if self.data.crop == "shift":
            rule = f"be below {side / 2:g}, half the side of the smallest images"
            require(2 * of_crop < side, "data.max_shift", rule, of_crop)

    @property
    def needs_whole_batches(self) -> bool:
        """Whether a batch cannot be computed in parts."""
        # torch's CUDA graphs overwrite what the gradients of the part before stand in (pytorch issue 169545).
        return self.compile in ("reduce-overhead", "max-autotune")

    def _check_parts(self) -> None:
        parts = 1 if self.accumulate is None else self.accumulate
        require(parts > 0 and self.batch_size % parts == 0, "accumulate", f"divide batch_size {self.batch_size}", parts)
        rule = "be default, off or max-autotune-no-cudagraphs with accumulate above 1, which CUDA graphs cannot do"
        require(parts == 1 or not self.needs_whole_batches, "compile", rule, self.compile)


def _check_phases(phases: tuple[tuple[float, int, float], ...]) -> None:
    ends = [0.0, *(end for end, _, _ in phases)]
    rising = all(earlier < later for earlier, later in itertools.pairwise(ends)) and ends[-1] <= 1
    require(rising, "phases", "end at rising shares of the run, in (0, 1]", phases)
    possible = all(resolution > 0 and 0 <= patch_drop < 1 for _, resolution, patch_drop in phases)
    require(possible, "phases", "have positive resolutions and patch dropouts in [0, 1)", phases)
