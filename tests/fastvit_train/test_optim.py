"""Optimizers and their parameter groups."""

import pytest
import torch
from torch import nn

from fastvit_train.config import MuonConfig, OptimConfig
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


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
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


# Gradient with decay 1 + 0.25 * 2 = 1.5; Nesterov adds momentum times the buffer, which is the gradient at first.
@pytest.mark.parametrize(
    ("nesterov", "momentum", "change"), [(True, 0.5, 2.25), (False, 0.5, 1.5), (True, 0, 1.5), (False, 0, 1.5)]
)
def test_sgds_momentum_is_as_asked_and_its_decay_coupled(nesterov, momentum, change):
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[2.0]]))
    config = OptimConfig(name="sgd", lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.25)
    optimizer = build_optimizer(layer, config)
    set_lr(optimizer, 1.0)
    layer.weight.grad = torch.tensor([[1.0]])
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2 - 0.1 * change)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muons_rest_takes_nesterov_too(nesterov):
    model = build_model("resnet_fast_cifar", num_classes=3, resolution=32)
    rest = MuonConfig(rest="sgd")
    optimizer = build_optimizer(model, OptimConfig(name="muon", momentum=0.5, nesterov=nesterov, muon=rest))
    set_lr(optimizer, 1.0)
    before = model.head.weight.detach().clone()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    decayed = model.head.weight.grad + 0.1 * before
    optimizer.step()
    factor = 1.5 if nesterov else 1.0
    torch.testing.assert_close(before - model.head.weight, 1e-3 * factor * decayed)


def test_clipping():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.grad = torch.tensor([[8.0]])
    clip_gradients(layer, 0)
    assert layer.weight.grad.item() == 8
    clip_gradients(layer, 2.0)
    assert layer.weight.grad.item() == pytest.approx(2, rel=1e-4)


def test_muon_takes_the_matrices_between_first_layer_and_classifier():
    model = build_model("vit_small_cifar", num_classes=10, resolution=32)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    config = OptimConfig(name="muon", lr=1e-3, muon=MuonConfig(lr=0.05, weight_decay=0.2))
    matrices = [group for group in parameter_groups(model, config) if group["kind"] == "matrix"]
    assert [(group["base_lr"], group["weight_decay"]) for group in matrices] == [(0.05, 0.2)]
    taken = {names[id(parameter)] for parameter in matrices[0]["params"]}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert taken == {f"blocks.{block}.{layer}.weight" for block in range(6) for layer in layers}


def test_muon_takes_filters_but_no_depthwise_ones():
    config = OptimConfig(name="muon")
    for arch, rest in {
        "resnet_fast_cifar": {"head.weight"},
        "resnet18": {"conv1.weight", "fc.weight"},
        "timm/convnext_atto": {"stem.0.weight", "head.fc.weight", "conv_dw"},
    }.items():
        model = build_model(arch, num_classes=10, resolution=32)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = parameter_groups(model, config)
        left = {names[id(p)] for group in groups if group["kind"] == "weight" for p in group["params"]}
        assert {"conv_dw" if "conv_dw" in name else name for name in left} == rest


@pytest.mark.parametrize("rest", ["adamw", "sgd"])
def test_muon_and_the_rest_step_together(rest):
    model = build_model("resnet_fast_cifar", num_classes=3, resolution=32).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, OptimConfig(name="muon", lr=0.1, muon=MuonConfig(rest=rest)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    before = [parameter.detach().clone() for parameter in trained]
    set_lr(optimizer, 0.0)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, trained, strict=True))
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.05, 0.05])
    optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, trained, strict=True))


def test_muon_wants_a_matrix():
    model = build_model("resnet_fast_cifar", num_classes=3, resolution=32)
    model.blocks.requires_grad_(False)
    with pytest.raises(ValueError, match="the model has no matrix between first layer and classifier"):
        build_optimizer(model, OptimConfig(name="muon"))


def test_layer_decay_follows_the_depth():
    model = build_model("vit_small_cifar", num_classes=10, resolution=32)
    config = OptimConfig(lr=1.0, layer_decay=0.5, weight_decay=0.1)
    rates = {id(p): group["base_lr"] for group in parameter_groups(model, config) for p in group["params"]}
    depth = {
        "head.weight": 0,
        "norm.bias": 1,
        "blocks.5.mlp.fc1.bias": 1,
        "blocks.0.attn.qkv.weight": 6,
        "pos_embed": 7,
    }
    for name, distance in depth.items():
        assert rates[id(model.get_parameter(name))] == pytest.approx(0.5**distance), name
    assert len(rates) == len(list(model.parameters()))


def test_layer_decay_wants_layers():
    with pytest.raises(ValueError, match="optim.layer_decay is 0.5, but the layers of this model are not known"):
        build_optimizer(nn.Linear(1, 1), OptimConfig(layer_decay=0.5))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "muon"])
def test_a_saved_state_has_rates_as_numbers(name):
    """Whatever the optimizers step by; and one that takes a state over goes on with the rates that it has."""
    config = OptimConfig(name=name, lr=0.1, norm_bias_lr_factor=10, muon=MuonConfig(lr=0.3))
    model = build_model("resnet_fast_cifar", num_classes=3, resolution=32)
    optimizer = build_optimizer(model, config)
    set_lr(optimizer, 0.5)
    states = optimizer.state_dict()
    rates = [group["lr"] for state in states for group in state["param_groups"]]
    assert {type(rate) for rate in rates} == {float}
    assert rates == ([0.15] if name == "muon" else []) + [0.05, 0.5]
    assert optimizer.lr == rates[0]
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(states)
    assert all(old is group["lr"] for old, group in zip(before, optimizer.param_groups, strict=True))
