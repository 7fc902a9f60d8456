"""Resuming: what may change does and is said, all else is refused, and a damaged checkpoint does not end the run."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvit_train import checkpoint
from fastvit_train.config import AugmentConfig, Config, DataConfig, MuonConfig, OptimConfig, ScheduleConfig
from fastvit_train.config_json import flatten, from_dict, to_dict
from fastvit_train.data import build_loaders
from fastvit_train.distributed import start_world
from fastvit_train.metrics import read_metrics
from fastvit_train.resume import MAY_CHANGE, changes, resume
from fastvit_train.run import Run, start_run
from fastvit_train.run_folder import find_checkpoints
from fastvit_train.train import train
from rank_processes import on_ranks, resume_in_folder_of_rank
from runs import same, weights

# What says what is trained, and in which order. A new option goes in here or into MAY_CHANGE.
REFUSED = {
    "arch",
    "augment.color_jitter",
    "augment.cutmix_alpha",
    "augment.erasing_probability",
    "augment.flip",
    "augment.magnitude",
    "augment.mean",
    "augment.mixup_alpha",
    "augment.num_ops",
    "augment.policy",
    "augment.shift",
    "augment.std",
    "augment.switch_probability",
    "batch_size",
    "bce_target_threshold",
    "data.area",
    "data.center_fraction",
    "data.crop",
    "data.exif_orientation",
    "data.interpolation",
    "data.max_shift",
    "data.order",
    "data.ratio",
    "data.repeats",
    "data.resolution",
    "distill.epochs",
    "distill.kind",
    "distill.preset",
    "distill.temperature",
    "distill.weight",
    "init_from",
    "label_smoothing",
    "loss",
    "model.drop_path",
    "model.mimetic_init",
    "model.patch_drop",
    "model.pooling",
    "model.positions",
    "model.qk_norm",
    "model.whiten_patches",
    "model.zero_residual",
    "optim.layer_decay",
    "optim.muon.normalize",
    "optim.muon.rest",
    "optim.name",
    "phases",
    "seed",
    "sync_batch_norm",
}


def test_every_option_may_change_or_may_not():
    options = set(flatten(to_dict(Config()))) - {"out", "resume"}
    assert options == MAY_CHANGE | REFUSED
    assert not MAY_CHANGE & REFUSED


def start(config: Config) -> Run:
    with start_world("cpu") as world:
        loader, _, num_classes = build_loaders(config, world)
        return start_run(config, world, config.out, loader, num_classes, is_resumed=True)


@pytest.fixture
def stopped(trained, config) -> Config:
    """A run with checkpoints of its steps 8 and 12 of 12."""
    shutil.copytree(trained.config.out, config.out)
    return replace(config, resume="auto")


def files(folder: Path) -> dict[str, bytes]:
    """What is on the disk, but for the lock, which belongs to nobody."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize(
    ("optim", "settings"),
    [
        (OptimConfig(name="adamw", lr=0.5, weight_decay=0.3, betas=(0.8, 0.9)), {"betas": (0.8, 0.9)}),
        (OptimConfig(name="lamb", lr=0.5, weight_decay=0.3, betas=(0.8, 0.9)), {"betas": (0.8, 0.9)}),
        (OptimConfig(name="sgd", lr=0.5, weight_decay=0.3, momentum=0.2), {"momentum": 0.2}),
    ],
)
def test_the_optimizer_goes_on_with_the_new_settings(config, capsys, optim, settings):
    first = replace(config, optim=OptimConfig(name=optim.name), max_steps=2)
    train(first)
    capsys.readouterr()
    train(replace(config, optim=optim, max_steps=3, resume="auto"))
    out = capsys.readouterr().out
    for line in ("optim.lr 0.001 -> 0.5", "optim.weight_decay 0.1 -> 0.3", "max_steps 2 -> 3"):
        assert f"resume changes {line}\n" in out
    groups = checkpoint.load(config.out / "checkpoint.pt")["optimizer"][0]["param_groups"]
    assert {(group["kind"], group["base_lr"], group["weight_decay"]) for group in groups} == {
        ("weight", 0.5, 0.3),
        ("norm_bias", 0.5, 0.0),
        ("rest", 0.5, 0.0),
    }
    assert all(group[name] == value for group in groups for name, value in settings.items())
    if optim.name == "lamb":
        assert {int(group["step"]) for group in groups} == {3}, "what counts steps is no setting"
    assert json.loads((config.out / "config.json").read_text())["optim"]["lr"] == 0.5
    assert read_metrics(config.out / "metrics.jsonl")[-2]["lr"] == pytest.approx(0.5 * 2 / 4)


def test_muon_goes_on_with_the_new_settings(config):
    train(replace(config, optim=OptimConfig(name="muon"), max_steps=2))
    muon = MuonConfig(lr=0.01, momentum=0.8, weight_decay=0.2, num_iterations=3)
    train(replace(config, optim=OptimConfig(name="muon", muon=muon), max_steps=3, resume="auto"))
    (group,) = checkpoint.load(config.out / "checkpoint.pt")["optimizer"][0]["param_groups"]
    assert (group["base_lr"], group["momentum"], group["weight_decay"], group["ns_steps"]) == (0.01, 0.8, 0.2, 3)


def test_a_longer_run_with_another_schedule(stopped, capsys):
    longer = replace(stopped, epochs=5, schedule=ScheduleConfig(decay="linear"), log_every_steps=1, eval_every_epochs=2)
    assert train(longer)["steps"] == 20
    assert "resume changes epochs 3 -> 5\n" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(stopped.out / "metrics.jsonl") if line["step"] > 12] == [
        13,
        14,
        15,
        16,
        16,
        17,
        18,
        19,
        20,
        20,
    ]


def test_the_same_config_changes_nothing(stopped, capsys):
    before = files(stopped.out)
    train(stopped)
    assert "resume changes" not in capsys.readouterr().out
    after = files(stopped.out)
    assert {name for name in before if before[name] != after[name]} <= {"config.json", "result.json"}


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"arch": "timm/test_resnet"}, ["arch timm/test_vit -> timm/test_resnet"]),
        ({"optim": OptimConfig(name="sgd")}, ["optim.name adamw -> sgd"]),
        ({"ema_half_life_epochs": 1}, ["evaluated weights model -> ema"]),
        ({"batch_size": 16}, ["batch_size 32 -> 16", "steps per epoch 4 -> 8"]),
        (
            {"seed": 3, "label_smoothing": 0.1, "augment": AugmentConfig(flip="random", shift=3)},
            ["seed 0 -> 3", "label_smoothing 0.0 -> 0.1", "augment.shift 2 -> 3"],
        ),
    ],
)
def test_another_run_is_refused_and_nothing_is_written(stopped, options, refused):
    before = files(stopped.out)
    with pytest.raises(ValueError, match="is of another run, and resume cannot change") as error:
        train(replace(stopped, **options))
    for text in (*refused, "give the values before", "--init-from", "--out"):
        assert text in str(error.value)
    assert "optim.lr" not in str(error.value)
    assert files(stopped.out) == before


def test_other_images_are_refused_but_may_move(stopped, make_set, tmp_path):
    moved = tmp_path / "moved.beton"
    shutil.copy(stopped.data.train, moved)
    train(replace(stopped, data=replace(stopped.data, train=moved)))
    for name, path in (
        ("train", make_set("other.beton", 140, num_classes=4, seed=7).path),
        ("val", make_set("fewer.beton", 49, num_classes=4, seed=1).path),
    ):
        with pytest.raises(ValueError, match=rf"cannot change {name} images \d+ images of 4 classes .* -> \d+ images"):
            train(replace(stopped, data=replace(stopped.data, **{name: path})))


def test_an_option_that_the_checkpoint_does_not_know_had_its_default():
    before = to_dict(Config())
    del before["data"]["ratio"]
    assert changes(before, Config()) == {}
    assert changes(before, Config(data=DataConfig(ratio=(1.0, 1.0)))) == {"data.ratio": ([3 / 4, 4 / 3], [1.0, 1.0])}


def test_the_initial_weights_are_not_needed_again(config, trained, monkeypatch):
    start_from = config.out.with_name("start.pt")
    shutil.copy(trained.config.out / "best.pt", start_from)
    config = replace(config, init_from=start_from)
    train(replace(config, max_steps=2))
    start_from.unlink()
    monkeypatch.setattr("fastvit_train.run.initialize_from_data", lambda *_: pytest.fail("weights were made in vain"))
    assert train(replace(config, max_steps=3, resume="auto"))["steps"] == 3


def _rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        state = checkpoint.load(path)
        change(state)
        checkpoint.save(path, state)

    return damage


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _all_moments(state: dict[str, Any]) -> list[dict[str, Any]]:
    return list(state["optimizer"][0]["state"].values())


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a bit": _flip_a_bit,
    "foreign": lambda path: path.write_bytes(b"no checkpoint at all"),
    "another file of torch": lambda path: torch.save({"weights": torch.zeros(3)}, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "kinds": _rewrite(lambda state: state.update(model=[1, 2])),
    "progress": _rewrite(lambda state: state["progress"].update(step="eight")),
    "names": _rewrite(lambda state: state["model"].pop("head.bias")),
    "shapes": _rewrite(lambda state: state["model"].update({"head.bias": torch.zeros(9)})),
    "moments": _rewrite(lambda state: _all_moments(state)[0].update(exp_avg=torch.zeros(1, 9))),
    "groups": _rewrite(lambda state: state["optimizer"][0]["param_groups"].pop()),
    "random states": _rewrite(lambda state: state["random_states"][0].update(cpu=torch.zeros(3))),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(stopped, capsys, kind):
    DAMAGE[kind](stopped.out / "checkpoint.pt")
    run = start(stopped)
    resume(run, find_checkpoints(stopped.out))
    out = capsys.readouterr().out
    assert f"{stopped.out}/checkpoint.pt: it " in out
    assert f"continuing from {stopped.out}/checkpoint-8.pt at step 8" in out
    before = checkpoint.load(stopped.out / "checkpoint-8.pt")
    assert same(run.model.state_dict(), before["model"])
    assert (run.progress.step, run.progress.epoch, run.progress.batch) == (8, 2, 0)


def test_a_run_ends_the_same_after_a_damaged_checkpoint(stopped, trained):
    """The damaged one is not kept under another name."""
    os.truncate(stopped.out / "checkpoint.pt", 1000)
    train(stopped)
    assert same(weights(stopped.out), weights(trained.config.out))
    assert [checkpoint.load(path)["progress"]["step"] for path in find_checkpoints(stopped.out)] == [12, 8]


def test_without_a_checkpoint_that_works_nothing_is_written(stopped):
    for name in ("checkpoint.pt", "checkpoint-8.pt"):
        os.truncate(stopped.out / name, 1000)
    before = files(stopped.out)
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* can be used: .*checkpoint\.pt: .*checkpoint-8\.pt: "
    ) as error:
        train(stopped)
    assert "put back a copy of one, or start again with another --out" in str(error.value)
    assert files(stopped.out) == before


def test_a_kill_between_two_renames_leaves_the_checkpoint_before(stopped, trained):
    (stopped.out / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="holds a run already"):
        train(replace(stopped, resume="never"))
    train(stopped)
    assert same(weights(stopped.out), weights(trained.config.out))


def test_the_main_rank_alone_finds_the_checkpoint(config, tmp_path, monkeypatch):
    """Two ranks without a common file system: the second one's folder is empty, and stays so."""
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    monkeypatch.chdir(tmp_path / "0")
    config = replace(config, augment=AugmentConfig(), precision="fp32", ema_half_life_epochs=0.5, out=Path("run"))
    train(replace(config, max_steps=6))
    outputs = on_ranks(partial(resume_in_folder_of_rank, replace(config, resume="auto"), tmp_path), 2)
    assert "continuing from run/checkpoint.pt at step 6" in outputs[0]
    assert list((tmp_path / "1").iterdir()) == []
    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    mine, other = weights(config.out), weights(whole.out)
    for name in mine:
        assert torch.allclose(mine[name], other[name], atol=2e-3), name


def test_a_saved_config_is_the_same_run(stopped):
    """What `--config config.json --resume auto` does."""
    saved = from_dict(json.loads((stopped.out / "config.json").read_text()))
    assert changes(to_dict(stopped), saved) == {}
