"""Optimizers, with the parameters grouped by the kind of module that owns them and by their layer."""

from typing import Any, Literal

import torch
from timm.models import group_parameters
from timm.optim import Lamb
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, AdamW, Optimizer

from fastvit_train.config import OptimConfig
from fastvit_train.models import classifier_names
from fastvit_train.muon import Muon
from fastvit_train.sharding import optimizer_shares
from loaders.errors import FastvitError

__all__ = ["Kind", "Optimizers", "build_optimizer", "clip_gradients", "layer_factors", "parameter_groups", "set_lr"]

Kind = Literal["matrix", "weight", "norm_bias", "rest"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm)


class Optimizers:
    """Optimizers, each over its own parameters, that step, save and load as one."""

    def __init__(self, *parts: Optimizer) -> None:
        self._parts = parts
        self.lr_factor = 1.0
        """What `set_lr` was called with last."""

    @property
    def lr(self) -> float:
        """The learning rate of the first group."""
        return float(self.param_groups[0]["base_lr"]) * self.lr_factor

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all parts."""
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        """Update the parameters from their gradients."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each part, in order; learning rates as numbers, wherever the optimizers have them."""
        states = [part.state_dict() for part in self._parts]
        for group in (group for state in states for group in state["param_groups"]):
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["base_lr"] * self.lr_factor
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take over what `state_dict` returned, but for the settings of the groups: those stay as they were built.

        Raises:
            ValueError: It is that of other optimizers or parameters.
        """
        for part, state in zip(self._parts, states, strict=True):
            # A group that has not made a step holds nothing but what it was built with.
            built = [{name: value for name, value in group.items() if name != "params"} for group in part.param_groups]
            part.load_state_dict(optimizer_shares(state, part))
            for group, settings in zip(part.param_groups, built, strict=True):
                group.update(settings)
            for parameter, values in part.state.items():
                for name, value in values.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                        raise ValueError(f"{name} is {list(value.shape)} for weights of {list(parameter.shape)}")


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizers:
    """Build the optimizer over the model's trainable parameters, which must be on their device and in their layout.

    Every group carries its highest learning rate as `base_lr`, for `set_lr`. Only the weights of linear and convolution
    layers decay: not biases, normalisation, position embeddings or class tokens.

    `step` takes all that changes from step to step from the device, so that a CUDA graph can hold it; LAMB's does not.

    Raises:
        FastvitError: `layer_decay` is asked for, and timm does not know the model's layers.
    """
    groups = parameter_groups(model, config)
    if config.name != "lamb":  # it counts steps on the host, and rounds otherwise where the rate is a tensor
        for group in groups:
            group["lr"] = _lr_on(group["params"][0].device)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if config.name == "muon":
        matrices = [group for group in groups if group["kind"] == "matrix"]
        others = [group for group in groups if group["kind"] != "matrix"]
        if not matrices:
            raise FastvitError("optim.name is muon, but the model has no matrix between first layer and classifier")
        return Optimizers(Muon(matrices, config.muon), _build(config.muon.rest, others, config, fused=fused))
    return Optimizers(_build(config.name, groups, config, fused=fused))


def _build(name: str, groups: list[dict[str, Any]], config: OptimConfig, *, fused: bool) -> Optimizer:
    match name:
        case "sgd":
            nesterov = config.nesterov and config.momentum > 0  # without momentum they are the same, but torch refuses
            fused = fused and not any(isinstance(each, DTensor) for group in groups for each in group["params"])
            return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
        case "lamb":  # whose own clipping is off: the trainer's comes first
            lamb: Optimizer = Lamb(groups, lr=config.lr, betas=config.betas, max_grad_norm=None)
            return lamb
        case "adamw":
            return AdamW(groups, lr=config.lr, betas=config.betas, fused=fused, capturable=fused)
        case _:
            raise FastvitError(f"optim.name must be adamw, sgd, lamb or muon, got {name}")


def _lr_on(device: torch.device) -> Tensor:
    """A learning rate where `step` reads it; on cuda torch's fused kernels take float32 alone."""
    return torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The trainable parameters by kind, and within a kind by layer where `layer_decay` tells the layers apart.

    A group has its `kind` (`matrix`: what Muon trains; `weight`: other weights that decay; `norm_bias`: biases of
    normalisation layers; `rest`), `base_lr`, `weight_decay` and `params`.
    """
    settings: dict[Kind, tuple[float, float]] = {
        "matrix": (config.muon.lr, config.muon.weight_decay),
        "weight": (config.lr, config.weight_decay),
        "norm_bias": (config.lr * config.norm_bias_lr_factor, 0.0),
        "rest": (config.lr, 0.0),
    }
    classifier = classifier_names(model) if config.name == "muon" else set()
    factors = layer_factors(model, config.layer_decay)
    groups: dict[tuple[Kind, float], list[nn.Parameter]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad:
                kind = _kind(module, parameter, may_be_matrix=config.name == "muon" and name not in classifier)
                groups.setdefault((kind, factors.get(name, 1.0)), []).append(parameter)
    ordered = sorted(groups, key=lambda key: (list(settings).index(key[0]), key[1]))
    return [
        {
            "params": groups[kind, factor],
            "kind": kind,
            "base_lr": settings[kind][0] * factor,
            "weight_decay": settings[kind][1],
        }
        for kind, factor in ordered
    ]


def _kind(module: nn.Module, parameter: nn.Parameter, *, may_be_matrix: bool) -> Kind:
    if isinstance(module, nn.Linear | nn.Conv2d) and parameter is module.weight:
        sees_pixels = isinstance(module, nn.Conv2d) and module.in_channels == 3
        is_matrix = isinstance(module, nn.Linear) or module.groups == 1
        return "matrix" if may_be_matrix and is_matrix and not sees_pixels else "weight"
    return "norm_bias" if isinstance(module, _NORMS) and parameter is module.bias else "rest"


def layer_factors(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """The factor on the learning rate of each parameter, by name; {} where it is 1 for all.

    It is `layer_decay` to the power of the layer's distance from the last one, the classifier (source: BEiT).

    Raises:
        FastvitError: timm does not know the model's layers.
    """
    if layer_decay == 1:
        return {}
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise FastvitError(
            f"optim.layer_decay is {layer_decay}, but the layers of this model are not known; set it to 1"
        )
    layers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def set_lr(optimizer: Optimizers, factor: float) -> None:
    """Set each group's learning rate to `factor` times its highest one; a tensor stays the same one."""
    optimizer.lr_factor = factor
    for group in optimizer.param_groups:
        lr = group["base_lr"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def clip_gradients(model: nn.Module, max_norm: float) -> None:
    """Scale the gradients down to a total norm of `max_norm`; 0 leaves them as they are."""
    if max_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
