"""Shares of weights: gathered, dealt out again, and what does not go with them."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from fastvit_train.batch_norm import has_batch_norm
from fastvit_train.config import AugmentConfig, Config, OptimConfig
from fastvit_train.distributed import World
from fastvit_train.evaluate import evaluate
from fastvit_train.optim import Optimizers, build_optimizer
from fastvit_train.sharding import (
    check_sharding,
    gathered,
    is_sharded,
    model_shares,
    shard,
    units,
    without_averaging,
)
from fastvit_train.train import train
from loaders import Batch

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=4, img_size=32)
    return model.to(memory_format=torch.channels_last)


def sharded_vit(group) -> nn.Module:
    model = vit()
    shard(model, dtype=torch.float32, world=ALONE)
    return model


def step(model: nn.Module, optimizer: Optimizers) -> None:
    model(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)).logsumexp(1).mean().backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)


def test_a_block_is_a_unit():
    model = vit()
    assert units(model) == list(model.blocks)


def test_shares_save_and_load_as_whole_tensors(group):
    """From shares to a model without them and back: weights, optimizer, and the steps after it."""
    config = OptimConfig(lr=1e-2)
    sharded, whole, again = sharded_vit(group), vit(), sharded_vit(group)
    optimizers = [build_optimizer(model, config) for model in (sharded, whole, again)]
    assert is_sharded(sharded)
    assert not is_sharded(whole)
    step(sharded, optimizers[0])
    for taker, optimizer, giver, given in (
        (whole, optimizers[1], sharded, optimizers[0]),
        (again, optimizers[2], whole, optimizers[1]),
    ):
        state = copy.deepcopy(gathered({"model": giver.state_dict(), "optimizer": given.state_dict()}))
        assert not any(isinstance(value, DTensor) for value in state["model"].values())
        taker.load_state_dict(model_shares(state["model"], taker))
        optimizer.load_state_dict(state["optimizer"])
    for model, optimizer in zip((sharded, whole, again), optimizers, strict=True):
        step(model, optimizer)
    expected = gathered(sharded.state_dict())
    for model in (whole, again):
        for name, value in gathered(model.state_dict()).items():
            torch.testing.assert_close(value, expected[name], msg=name)


def test_an_optimizer_takes_states_in_the_layout_of_its_weights():
    """Fused optimizers walk through memory, and shares are contiguous where other weights are channels_last."""
    weight = nn.Parameter(torch.randn(8, 3, 3, 3).to(memory_format=torch.channels_last))
    optimizer = Optimizers(AdamW([weight], fused=True))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    states = optimizer.state_dict()
    moments = states[0]["state"][0]
    moments["exp_avg"] = moments["exp_avg"].contiguous()
    optimizer.load_state_dict(states)
    assert optimizer.state_dict()[0]["state"][0]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_parts_add_up(group):
    model, whole = sharded_vit(group), vit()
    images = torch.randn(4, 3, 32, 32)
    with without_averaging(model):
        model(images[:2]).sum().backward()
    model(images[2:]).sum().backward()
    whole(images).sum().backward()
    for mine, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.full_tensor(), other.grad, rtol=1e-4, atol=1e-4)


class Uneven(World):
    """A rank that has one batch fewer than its partner."""

    def gather(self, value: int) -> list[int]:
        return [value, value + 1]

    def sum(self, values: Tensor) -> Tensor:
        return values


class Images:
    """A loader of one batch, and one without images as all of it was left out."""

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return 2

    def __iter__(self):
        yield Batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), torch.arange(2))
        yield Batch(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.arange(0), torch.arange(0))


@pytest.mark.parametrize(("sharded", "calls"), [(True, 6), (False, 2)])
def test_ranks_call_a_sharded_model_equally_often(group, monkeypatch, sharded, calls):
    """Three batches of two views, of which this rank has images for one; without shares nobody waits for it."""
    model = sharded_vit(group) if sharded else vit()
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    config = replace(Config(), eval_averaging="flip", augment=AugmentConfig())
    config = replace(config, data=replace(config.data, resolution=32))
    world = Uneven(rank=0, world_size=2, device=torch.device("cpu"))
    autocast = torch.autocast("cpu", enabled=False)
    result = evaluate(model, Images(), config, world=world, dtype=torch.float32, autocast=autocast)
    assert (len(seen), result.num_images) == (calls, 2)


@pytest.mark.parametrize(
    ("changes", "arch", "dtype", "world_size", "message"),
    [
        ({}, "test_vit", torch.float32, 1, "there is one process: start several with torchrun"),
        ({}, "test_resnet", torch.float32, 2, "the model has batch normalisation"),
        ({"optim": OptimConfig(name="muon")}, "test_vit", torch.float32, 2, "optim.name is muon"),
        ({}, "test_vit", torch.float16, 2, "computes in float16"),
        ({"precision": "fp8"}, "test_vit", torch.bfloat16, 2, "precision is fp8"),
        ({"compile": "reduce-overhead"}, "test_vit", torch.float32, 2, "compile is reduce-overhead"),
    ],
)
def test_what_does_not_go_with_shares_is_refused(changes, arch, dtype, world_size, message):
    model = timm.create_model(arch, num_classes=4)
    assert has_batch_norm(model) == (arch == "test_resnet")
    world = World(rank=0, world_size=world_size, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=f"parallel is fsdp, but .*{message}"):
        check_sharding(replace(Config(parallel="fsdp"), **changes), model, dtype, world)


def test_one_process_refuses_shares(config):
    with pytest.raises(ValueError, match="parallel is fsdp, but there is one process"):
        train(replace(config, parallel="fsdp"))
    assert not dist.is_initialized()
