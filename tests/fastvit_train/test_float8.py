"""Float8: which layers compute in it, who is refused, and that the model stays the same for all else.

What needs torchao runs where it is installed, with its emulation: rounded to float8, multiplied in float32.
"""

import copy
import importlib.util
import sys
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from fastvit_train.config import OptimConfig
from fastvit_train.float8 import compute_in_float8, float8_layers, use_float8
from fastvit_train.metrics import read_metrics
from fastvit_train.models import build_model
from fastvit_train.optim import parameter_groups
from fastvit_train.restore import restore
from fastvit_train.train import train
from loaders.errors import MissingPackageError
from runs import tiny_cifar_vit

CUDA = torch.device("cuda", 0)

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")  # when Python first compiles the sources of torchao
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    return tiny_cifar_vit(num_classes=4, resolution=32)


def converted(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"}


def test_the_linear_layers_of_the_blocks_are_chosen():
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert float8_layers(small_vit()) == {f"blocks.{block}.{layer}" for block in range(3) for layer in layers}


def test_sizes_that_float8_does_not_have_are_left_out():
    model = timm.models.VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=1, num_heads=3, mlp_ratio=2)
    assert not float8_layers(model)
    model = timm.models.VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=1, num_heads=3, mlp_ratio=2.5)
    assert float8_layers(model) == {"blocks.0.attn.qkv", "blocks.0.attn.proj"}


@pytest.mark.parametrize("arch", ["resnet_fast_cifar", "timm/test_resnet"])
def test_models_without_such_layers_are_refused(arch):
    model = build_model(arch, num_classes=4, resolution=32)
    assert not float8_layers(model)
    with pytest.raises(ValueError, match="precision is fp8, .* the model, a ResNet.*, has none: use --precision bf16"):
        compute_in_float8(model)


def test_a_run_on_the_cpu_is_refused(config):
    with pytest.raises(ValueError, match="precision is fp8, but the device is cpu, .*: use --precision bf16"):
        train(replace(config, precision="fp8"))


def test_a_card_without_float8_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match="the device is NVIDIA A100, which has no float8 matmuls"):
        use_float8(small_vit(), CUDA)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0)])
def test_without_torchao_it_says_what_to_install(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(MissingPackageError, match="pip install torchao"):
        use_float8(small_vit(), CUDA)


@needs_torchao
def test_the_chosen_layers_compute_in_float8():
    model = small_vit()
    layers = float8_layers(model)
    compute_in_float8(model)
    assert converted(model) == layers == float8_layers(model)


@needs_torchao
def test_parameters_stay_as_they_are():
    model, optim = small_vit(), OptimConfig(name="muon", layer_decay=0.5)
    plain = copy.deepcopy(model)
    before, groups = dict(model.named_parameters()), parameter_groups(model, optim)
    compute_in_float8(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    assert [(group["kind"], len(group["params"])) for group in parameter_groups(model, optim)] == [
        (group["kind"], len(group["params"])) for group in groups
    ]
    plain.load_state_dict(model.state_dict())
    model.load_state_dict(plain.state_dict())


# 15 images of 65 tokens: not a multiple of 16, as float8 matmuls need it.
@needs_torchao
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gradients_are_near_those_without(device):
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("the card has no float8 matmuls")
    plain = small_vit().to(device)
    model = copy.deepcopy(plain)
    compute_in_float8(model, emulate=device == "cpu")
    images, labels = torch.randn(15, 3, 32, 32, device=device), torch.arange(15, device=device) % 4
    for each in (plain, model):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = nn.functional.cross_entropy(each(images), labels)
        loss.backward()
    mine, other = (torch.cat([weight.grad.flatten() for weight in each.parameters()]) for each in (model, plain))
    error = (mine - other).norm() / other.norm()
    assert 0.02 < error < 0.3  # gradients keep two digits of their binary fraction: 7 % off in each matmul


@needs_torchao
def test_a_run_learns_and_leaves_what_others_take(config, monkeypatch, capsys):
    monkeypatch.setattr("fastvit_train.models.MODELS", {"vit_small_cifar": tiny_cifar_vit})
    monkeypatch.setattr("fastvit_train.run.use_float8", lambda model, device: compute_in_float8(model, emulate=True))
    config = replace(config, arch="vit_small_cifar", precision="fp8", epochs=6, ema_half_life_epochs=1)
    train(replace(config, max_steps=12))
    losses = [line["loss"] for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.1
    assert ", fp8 on 1 x cpu" in capsys.readouterr().out
    assert not converted(restore(config.out).model)
    train(replace(config, precision="bf16", resume="auto", max_steps=18))
    assert "resume changes precision fp8 -> bf16" in capsys.readouterr().out
    train(replace(config, resume="auto"))
    assert "resume changes precision bf16 -> fp8" in capsys.readouterr().out
    assert read_metrics(config.out / "metrics.jsonl")[-1]["step"] == 24
