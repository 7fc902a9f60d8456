"""Runs that pull the trainer's levers: they learn, and stop and resume without a trace."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import PatchDropout
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastvit_train import checkpoint
from fastvit_train.config import Config, ModelConfig, OptimConfig
from fastvit_train.evaluate import Evaluation
from fastvit_train.metrics import read_metrics
from fastvit_train.models import MODELS
from fastvit_train.train import add_gradients, train

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("one_thread")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pt")["model"]


def same(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.fixture
def levers(config) -> Config:
    """A run that pulls every lever whose state a resumed run has to find again."""
    return replace(
        config,
        loss="bce",
        accumulate=2,
        ema_half_life_epochs=0.5,
        phases=((0.5, 32, 0.5),),
        data=replace(config.data, resolution=64),
        model=ModelConfig(drop_path=0.2, patch_drop=0.25, qk_norm=True),
        optim=OptimConfig(lr=3e-3, clip_norm=1.0, layer_decay=0.9),
    )


@pytest.mark.parametrize("name", ["sgd", "lamb", "muon"])
def test_levers_resume_bit_by_bit(levers, name):
    """Optimizer, moving average, phases, dropped paths and patches: stopped anywhere, the same bits as one run."""
    levers = replace(levers, optim=replace(levers.optim, name=name))
    whole = replace(levers, out=levers.out.with_name("whole"))
    reference = train(whole)
    for last in (1, 6, 9, 12):  # 4 steps an epoch; the phase ends with the second
        result = train(replace(levers, max_steps=last, resume="auto"))
    mine, other = (checkpoint.load(folder / "checkpoint.pt") for folder in (levers.out, whole.out))
    assert same(mine["model"], other["model"])
    assert same(mine["ema"], other["ema"])
    assert not same(mine["ema"], mine["model"])
    assert (result["top1"], result["weights"]) == (reference["top1"], "ema")


def test_a_vit_that_whitens_starts_from_the_first_batch(config):
    model = ModelConfig(whiten_patches=True, bf16_residual=True)
    train(replace(config, max_steps=1, model=model, optim=OptimConfig(lr=1e-9)))
    weight = weights(config.out)["patch_embed.proj.weight"].flatten(1)
    assert torch.linalg.svdvals(weight).max() > 10, "weak components of the patches are made as strong as the others"
    train(replace(config, max_steps=1, out=config.out.with_name("other"), optim=OptimConfig(lr=1e-9)))
    weight = weights(config.out.with_name("other"))["patch_embed.proj.weight"].flatten(1)
    assert torch.linalg.svdvals(weight).max() < 3


@pytest.mark.parametrize("name", ["sgd", "lamb", "muon"])
def test_every_optimizer_learns(config, name):
    lr = {"sgd": 0.05, "lamb": 2e-2, "muon": 3e-3}[name]
    config = replace(config, epochs=5, ema_half_life_epochs=0.3, optim=OptimConfig(name=name, lr=lr))
    assert train(config)["top1"] > 0.9


def test_the_loss_of_every_class_apart_learns(config):
    assert train(replace(config, epochs=5, loss="bce", label_smoothing=0.1))["top1"] > 0.9


def test_accumulation_takes_the_same_steps(config):
    """In parts of 8 and of 16 as in one of 32, up to rounding."""
    losses = {}
    for accumulate in (1, 2, 4):
        out = config.out.with_name(f"parts{accumulate}")
        train(replace(config, accumulate=accumulate, max_steps=3, log_every_steps=1, precision="fp32", out=out))
        losses[accumulate] = [line["loss"] for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
    assert losses[4] == pytest.approx(losses[1], rel=1e-4)


def test_parts_share_what_autocast_makes_of_the_weights(config, monkeypatch):
    copies = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is torch.ops.aten._to_copy and args[0].shape == (192, 64):
                copies.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    def counting(*args):
        with Counting():
            add_gradients(*args)

    monkeypatch.setattr("fastvit_train.train.add_gradients", counting)
    train(replace(config, accumulate=4, max_steps=1, precision="bf16"))
    assert copies.count(torch.float32) == 12, "one copy of each weight of this shape"
    assert copies.count(torch.bfloat16) == 4 * 12, "a gradient of each in each part"


def test_the_phases_set_resolution_and_patches(config, monkeypatch):
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_drop = PatchDropout(0.5)
            self.layer = nn.Linear(3, 4)

        def forward(self, images):
            if self.training:
                seen.append((images.shape[-1], self.patch_drop.prob))
            return self.layer(images.mean(dim=(2, 3)))

    monkeypatch.setitem(MODELS, "watching", lambda **_: Watching())
    phases = ((0.25, 16, 0.5), (0.6, 24, 0.25))
    train(replace(config, arch="watching", epochs=4, phases=phases))
    assert seen == [(16, 0.5)] * 4 + [(24, 0.25)] * 8 + [(32, 0.0)] * 4


def test_the_best_weights_are_kept_apart(config, monkeypatch):
    evaluations = iter([0.5, 0.75, 0.25])
    monkeypatch.setattr("fastvit_train.train.evaluate", lambda *_, **__: Evaluation(next(evaluations), None, 1.0, 50))
    result = train(config)
    assert (result["top1"], result["best_top1"], result["best_step"]) == (0.25, 0.75, 8)
    best = checkpoint.load(config.out / "best.pt")
    assert best["progress"]["step"] == 8
    assert not same(best["model"], weights(config.out))


def test_a_run_starts_from_another_ones_weights(config, make_set):
    """Other classes, another resolution, fixed positions: what was learned goes over."""
    train(replace(config, ema_half_life_epochs=0.2))
    other = make_set("other.beton", 64, num_classes=6).path
    data = replace(config.data, train=other, val=other, resolution=64)
    start = replace(config, data=data, max_steps=1, out=config.out.with_name("start"), optim=OptimConfig(lr=1e-30))
    train(replace(start, init_from=config.out / "best.pt"))
    best = checkpoint.load(config.out / "best.pt")["model"]
    begun = weights(start.out)
    assert begun["head.weight"].shape[0] == 6
    assert begun["pos_embed"].shape[1] == 1 + 16
    torch.testing.assert_close(begun["blocks.0.attn.qkv.weight"], best["blocks.0.attn.qkv.weight"])
