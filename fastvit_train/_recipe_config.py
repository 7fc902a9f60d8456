"""The parts of the configuration that recipes differ in: model, optimizer and schedule."""

from dataclasses import dataclass, field
from typing import Literal


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Refuse the `value` of the option `name` unless the condition holds.

    Raises:
        ValueError: It does not; the message has the rule and the value.
    """
    if not condition:
        raise ValueError(f"{name} must {rule}, got {value}")


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
        require(0 <= self.drop_path < 1, "model.drop_path", "lie in [0, 1)", self.drop_path)
        require(0 <= self.patch_drop < 1, "model.patch_drop", "lie in [0, 1)", self.patch_drop)
        both = self.mimetic_init and self.zero_residual
        require(not both, "model.zero_residual", "be off with model.mimetic_init, which sets the same weights", True)


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
        require(self.lr > 0, "optim.muon.lr", "be positive", self.lr)
        require(0 <= self.momentum < 1, "optim.muon.momentum", "lie in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "optim.muon.weight_decay", "not be negative", self.weight_decay)
        require(0 < self.num_iterations < 100, "optim.muon.num_iterations", "lie in [1, 99]", self.num_iterations)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer; weight decay is for the weights of linear and convolution layers alone."""

    name: Literal["adamw", "sgd", "lamb", "muon"] = "adamw"
    """AdamW, SGD with Nesterov momentum, LAMB, or Muon for matrices with optim.muon.rest for all the rest."""
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
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    muon: MuonConfig = field(default_factory=MuonConfig)

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", "be positive", self.lr)
        require(0 < self.layer_decay <= 1, "optim.layer_decay", "lie in (0, 1]", self.layer_decay)
        require(self.weight_decay >= 0, "optim.weight_decay", "not be negative", self.weight_decay)
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
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", "not be negative", self.warmup_epochs)
