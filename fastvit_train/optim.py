"""Optimizers from torch.optim, with the parameters grouped by the kind of module that owns them."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer

from fastvit_train.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Build the optimizer over the model's trainable parameters.

    Every group carries its highest learning rate as `base_lr`, for `set_lr`. Only the weights of linear and convolution
    layers decay: not biases, normalisation, position embeddings or class tokens.
    """
    groups = parameter_groups(model, config)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Three groups (empty ones left out): decaying weights, the normalisation layers' biases, and all the rest."""
    weights: list[nn.Parameter] = []
    norm_biases: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "weight" and isinstance(module, nn.Linear | nn.Conv2d):
                weights.append(parameter)
            elif name == "bias" and isinstance(module, _BatchNorm | nn.LayerNorm):
                norm_biases.append(parameter)
            else:
                rest.append(parameter)
    bias_lr = config.lr * config.norm_bias_lr_factor
    groups: list[dict[str, object]] = [
        {"params": weights, "base_lr": config.lr, "weight_decay": config.weight_decay},
        {"params": norm_biases, "base_lr": bias_lr, "weight_decay": 0.0},
        {"params": rest, "base_lr": config.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its highest one."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(model: nn.Module, max_norm: float) -> None:
    """Scale the gradients down to a total norm of `max_norm`; 0 leaves them as they are."""
    if max_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
