"""Optimizers and their parameter groups."""

import pytest
import torch
from torch import nn

from fastvit_train.config import OptimConfig
from fastvit_train.models import build_model
from fastvit_train.optim import build_optimizer, clip_gradients, parameter_groups, set_lr


def test_only_weights_of_linear_and_convolution_layers_decay():
    model = build_model("vit_small_cifar", num_classes=10, resolution=32)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, OptimConfig(weight_decay=0.3, norm_bias_lr_factor=4))
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert "blocks.0.attn.qkv.weight" in decayed
    assert "patch_embed.proj.weight" in decayed
    assert not {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias"} & decayed
    biases = next(group for group in groups if group["base_lr"] == 4e-3)
    assert {names[id(p)] for p in biases["params"]} == {
        name for name in names.values() if "norm" in name and name.endswith(".bias")
    }
    everything = [id(p) for group in groups for p in group["params"]]
    assert sorted(everything) == sorted(names)


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, OptimConfig())) == 2


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_learning_rate_reaches_every_group(name):
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.1, norm_bias_lr_factor=10, weight_decay=0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.ones(1, 2)).square().sum().backward()
    set_lr(optimizer, 0.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5, 0.05])
    optimizer.step()
    assert not torch.equal(before[3], model[1].bias)


def test_sgd_is_nesterov_with_coupled_decay():
    weight = nn.Parameter(torch.tensor([[2.0]]))
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = weight
    optimizer = build_optimizer(layer, OptimConfig(name="sgd", lr=0.1, momentum=0.5, weight_decay=0.25))
    set_lr(optimizer, 1.0)
    weight.grad = torch.tensor([[1.0]])
    optimizer.step()
    # gradient with decay 1 + 0.25 * 2 = 1.5; Nesterov adds momentum times the buffer: 1.5 + 0.5 * 1.5
    assert weight.item() == pytest.approx(2 - 0.1 * 2.25)


def test_clipping():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.grad = torch.tensor([[8.0]])
    clip_gradients(layer, 0)
    assert layer.weight.grad.item() == 8
    clip_gradients(layer, 2.0)
    assert layer.weight.grad.item() == pytest.approx(2, rel=1e-4)
