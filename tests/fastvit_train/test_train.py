"""Whole runs on small data: they learn, and say what they did."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.layers import PatchDropout
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastvit_train.augment import augment
from fastvit_train.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, ScheduleConfig
from fastvit_train.data import build_loaders
from fastvit_train.distributed import World, start_world
from fastvit_train.metrics import Totals, read_metrics
from fastvit_train.models import MODELS, build_model
from fastvit_train.run import start_run
from fastvit_train.train import add_gradients, add_gradients_of, images_per_rank, train, train_step
from loaders.beton import EncodedImage, ImageMode
from runs import TINY, LeavingOut, same, weights


def test_a_run_learns_and_reports(trained):
    config, result = trained
    assert result["top1"] > 0.9, "the colours of these images tell their class"
    on_disk = json.loads((config.out / "result.json").read_text())
    assert on_disk == result
    for name, kind in {
        "preset": type(None),
        "arch": str,
        "num_parameters": int,
        "epochs": int,
        "top1": float,
        "top1_averaged": type(None),
        "train_seconds": float,
        "images_per_second": float,
        "data_wait_fraction": float,
        "device": str,
        "seed": int,
        "command": str,
        "versions": dict,
    }.items():
        assert isinstance(on_disk[name], kind), name
    assert result["steps"] == 12
    lines = read_metrics(config.out / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [(line["step"], line["num_images"]) for line in evaluations] == [(4, 50), (8, 50), (12, 50)]
    assert evaluations[-1]["top1"] == result["top1"]
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"{100 * result['top1']:.2f} %" in (config.out / "report.html").read_text()
    assert json.loads((config.out / "config.json").read_text())["arch"] == config.arch


def test_the_accuracy_does_not_depend_on_the_order_of_the_classes(trained, other_order, capsys):
    result = train(other_order)
    assert result["best_top1"] == trained.result["best_top1"] > 0.9
    seen, expected = (
        [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
        for config in (other_order, trained.config)
    )
    assert [line["loss"] for line in seen] == pytest.approx([line["loss"] for line in expected], rel=1e-5)
    said = capsys.readouterr().out
    assert said.count("its classes have other numbers than those of") == 1


def test_a_resolution_that_does_not_fit_is_refused_before_anything_is_made(config, monkeypatch):
    monkeypatch.setattr("fastvit_train.train.build_loaders", lambda *_: pytest.fail("the data were read"))
    monkeypatch.setattr("fastvit_train.train.claim_folder", lambda *_: pytest.fail("the folder was made"))
    with pytest.raises(ValueError, match="resolution must be a multiple of the 16 px .*; the nearest are 32 and 48"):
        train(replace(config, data=replace(config.data, resolution=40)))


def test_a_run_says_how_large_its_steps_are(config, capsys):
    train(replace(config, accumulate=4, max_steps=1))
    line = "batch       32 images over 1 device: 32 on each, in 4 parts of 8; learning rate 0.003\n"
    assert line in capsys.readouterr().out
    train(replace(config, max_steps=1, optim=OptimConfig(name="muon"), out=config.out.with_name("muon")))
    line = "batch       32 images over 1 device: 32 on each; learning rate 0.001, 0.02 for matrices\n"
    assert line in capsys.readouterr().out


def test_ranks_draw_apart(config, monkeypatch):
    """The rows of the batch that a rank draws and its dropped paths are its own, and the weights are those of all."""
    drawn, dropped, starts = set(), set(), []

    def recording(*args, generator, rows, **options):
        drawn.add((generator.initial_seed(), rows.first))
        return augment(*args, generator=generator, **options)

    monkeypatch.setattr("fastvit_train.train.augment", recording)
    with start_world("cpu") as alone:
        loader, _, num_classes = build_loaders(config, alone)
        batch = next(iter(loader))
        for rank in range(3):
            world = replace(alone, rank=rank)
            run = start_run(config, world, config.out.with_name(f"rank{rank}"), loader, num_classes)
            starts.append(run.model.state_dict()["head.weight"].clone())
            dropped.add(torch.rand(()).item())
            train_step(run, *batch, Totals(world.device))
            run.progress.step = 1
            train_step(run, *batch, Totals(world.device))
    assert len({seed for seed, _ in drawn}) == 2, "each step has its own, for the rows of all ranks"
    assert len(drawn) == 6
    assert len(dropped) == 3
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


def test_the_same_config_gives_the_same_weights(trained, config):
    train(config)
    assert same(weights(config.out), weights(trained.config.out))
    other = config.out.with_name("other")
    train(replace(config, seed=1, out=other))
    assert not same(weights(other), weights(trained.config.out))


@pytest.mark.parametrize("name", ["sgd", "lamb", "muon"])
def test_every_optimizer_learns(config, name):
    lr = {"sgd": 0.05, "lamb": 2e-2, "muon": 3e-3}[name]
    config = replace(config, epochs=5, ema_half_life_epochs=0.3, optim=OptimConfig(name=name, lr=lr))
    assert train(config)["top1"] > 0.9


def test_the_loss_of_every_class_apart_learns(config):
    assert train(replace(config, epochs=5, loss="bce", label_smoothing=0.1))["top1"] > 0.9


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_run_learns_in_the_precision_that_is_asked_for(config, monkeypatch, capsys, precision):
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, images):
            logits = self.layer(images.mean(dim=(2, 3)))
            seen.append((images.dtype, logits.dtype))
            return logits

    monkeypatch.setitem(MODELS, "watching", lambda **_: Watching())
    config = replace(config, arch="watching", precision=precision, epochs=15, optim=OptimConfig(lr=0.1))
    assert train(config)["top1"] > 0.9
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[precision]
    assert set(seen[1:]) == {(dtype, dtype)}, "all but the forecast's"
    assert f", {precision} on 1 x cpu" in capsys.readouterr().out


def first_loss(config, **changes) -> float:
    """The loss of the first step."""
    out = config.out.with_name("-".join(f"{name}{value}" for name, value in changes.items()) or "plain")
    train(replace(config, max_steps=1, log_every_steps=1, compile="off", out=out, **changes))
    return read_metrics(out / "metrics.jsonl")[0]["loss"]


def test_label_smoothing_reaches_the_loss(config):
    assert first_loss(config) != pytest.approx(first_loss(config, label_smoothing=0.3), rel=1e-3)


def test_the_target_threshold_reaches_the_loss(config):
    config = replace(config, loss="bce", augment=AugmentConfig(mixup_alpha=1.0))
    assert first_loss(config) != pytest.approx(first_loss(config, bce_target_threshold=0.2), rel=1e-3)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_clipped_whole_and_unscaled(config, precision, accumulate):
    """A step of plain SGD at rate 1 goes as far as the clipped gradient is long."""
    torch.manual_seed(config.seed)
    start = build_model(config.arch, num_classes=4, resolution=32).state_dict()
    optim = OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.01)
    config = replace(config, precision=precision, accumulate=accumulate, optim=optim, max_steps=1)
    train(replace(config, schedule=ScheduleConfig(warmup_epochs=0)))
    moved = [(weight - start[name]).square().sum() for name, weight in weights(config.out).items()]
    assert sum(moved).sqrt().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("arch", ["resnet_fast_cifar", TINY])
def test_a_compiled_run_learns_the_same(config, arch):
    """torch.compile on the CPU, in bf16 as on a GPU: the same steps up to rounding."""
    config = replace(config, arch=arch, max_steps=3, precision="bf16", log_every_steps=1)
    train(config)
    train(replace(config, compile="default", out=config.out.with_name("compiled")))
    plain, compiled = (
        [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (config.out, config.out.with_name("compiled"))
    )
    assert compiled == pytest.approx(plain, rel=0.02)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("compile_mode", ["off", pytest.param("auto", marks=pytest.mark.slow)])
def test_strong_augmentation_learns_and_resumes_bit_by_bit(config, compile_mode):
    """All of it at once, compiled on the CPU as `auto` says, and stopped in the middle of an epoch."""
    augment = AugmentConfig(
        policy="three", color_jitter=0.3, erasing_probability=0.25, mixup_alpha=0.8, cutmix_alpha=1.0, flip="random"
    )
    config = replace(config, augment=augment, label_smoothing=0.1, epochs=2, compile=compile_mode)
    config = replace(config, checkpoint_every_steps=1)
    whole = replace(config, out=config.out.with_name("whole"))
    result = train(whole)
    train(replace(config, max_steps=3))
    train(replace(config, resume="auto"))
    assert same(weights(config.out), weights(whole.out))
    lines = [line for line in read_metrics(whole.out / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert result["top1"] > 0.25


def test_accumulation_takes_the_same_steps(config):
    """In parts of 8 and of 16 as in one of 32, up to rounding."""
    losses = {}
    for accumulate in (1, 2, 4):
        out = config.out.with_name(f"parts{accumulate}")
        train(replace(config, accumulate=accumulate, max_steps=3, log_every_steps=1, precision="fp32", out=out))
        losses[accumulate] = [line["loss"] for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
    assert losses[4] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_comes_in_the_parts_that_were_chosen(config, monkeypatch, capsys):
    sizes = []

    def watching(part, *args, **options):
        sizes.append(len(part.images))
        add_gradients_of(part, *args, **options)

    monkeypatch.setattr("fastvit_train.run.resolve_accumulate", lambda *_, **__: 4)
    monkeypatch.setattr("fastvit_train.train.add_gradients_of", watching)
    train(replace(config, max_steps=1))
    assert sizes == [8] * 4
    assert ", in 4 parts of 8 (chosen for this device);" in capsys.readouterr().out


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


def test_a_vit_that_whitens_starts_from_the_first_batch(config):
    model = ModelConfig(whiten_patches=True, bf16_residual=True)
    train(replace(config, max_steps=1, model=model, optim=OptimConfig(lr=1e-9)))
    weight = weights(config.out)["patch_embed.proj.weight"].flatten(1)
    assert torch.linalg.svdvals(weight).max() > 10, "weak components of the patches are made as strong as the others"
    train(replace(config, max_steps=1, out=config.out.with_name("other"), optim=OptimConfig(lr=1e-9)))
    weight = weights(config.out.with_name("other"))["patch_embed.proj.weight"].flatten(1)
    assert torch.linalg.svdvals(weight).max() < 3


@pytest.mark.parametrize("bad", [range(32, 64), range(96, 128), range(128)])
def test_batches_that_are_left_out_whole_do_not_stop_the_epochs(config, write_images, encode_jpeg, tmp_path, bad):
    """Four batches of 32 in file order, of which one, the last or all hold nothing but noise."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    records = [
        EncodedImage(b"noise" if index in bad else encode_jpeg(pixels), ImageMode.JPG, 32, 32) for index in range(128)
    ]
    write_images(tmp_path / "bad.beton", records, np.arange(128) % 4)
    data = replace(config.data, train=tmp_path / "bad.beton", backend="torch", order="sequential", on_error="skip")
    config = replace(config, data=replace(data, num_workers=0))
    if len(bad) == 128:
        with pytest.raises(ValueError, match=r"bad\.beton gave no image to train on"):
            train(config)
    else:
        assert train(config)["steps"] == 12
        epochs = [line["epoch"] for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
        assert epochs == [1, 2, 3], "a batch without images is one of the epoch's four"


@pytest.fixture
def leave_out(monkeypatch):
    """Have the training loader leave these samples out, even all of a batch."""

    def leave(samples: range) -> None:
        def built(*args):
            train_loader, *rest = build_loaders(*args)
            return LeavingOut(train_loader, set(samples)), *rest

        monkeypatch.setattr("fastvit_train.train.build_loaders", built)

    return leave


@pytest.fixture
def in_order(config) -> Config:
    """Samples 0 to 31 are the first batch of four; those that cannot be read are left out."""
    return replace(config, log_every_steps=1, data=replace(config.data, order="sequential", on_error="skip"))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_batch_without_images_counts_but_changes_nothing(in_order, leave_out, capsys, accumulate):
    """The second batch of each epoch; of the third, three images are left, fewer than parts."""
    leave_out(range(32, 93))
    config = replace(in_order, accumulate=accumulate, optim=OptimConfig(name="sgd", lr=0.01))
    train(replace(config, max_steps=1))
    first = weights(config.out)
    train(replace(config, max_steps=2, resume="auto"))
    assert same(weights(config.out), first)
    capsys.readouterr()
    assert train(replace(config, resume="auto"))["steps"] == 12
    assert "left out 61 samples, such as record 32: noise" in capsys.readouterr().out
    lines = [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 3, 4, 5, 7, 8, 9, 11, 12], "nothing to log of steps 2, 6 and 10"


def test_an_epoch_without_images_ends_the_run(in_order, leave_out):
    leave_out(range(128))
    with pytest.raises(ValueError, match=r"train\.beton gave no image to train on; record 0: noise"):
        train(in_order)


def test_a_batch_that_is_not_whole_is_not_compiled_for(in_order, leave_out, monkeypatch):
    """It is computed without torch.compile: code for its size would hardly be used again."""
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, images):
            if self.training:
                seen.append((len(images), torch.compiler.is_compiling()))
            return self.layer(images.mean(dim=(2, 3)))

    monkeypatch.setitem(MODELS, "watching", lambda **_: Watching())
    compiling = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiling(self, backend="eager"))
    monkeypatch.setattr("fastvit_train.run.compiles_augmentation", lambda *_: False)
    leave_out(range(40, 45))
    train(replace(in_order, arch="watching", epochs=1, compile="default"))
    assert seen == [(32, True), (27, False), (32, True), (32, True)]


def test_images_of_all_ranks_count_the_same():
    """A rank with one image and one with three: with weights 1/2 and 3/2 the mean over ranks is that over images."""

    class One(World):
        def sum(self, values):
            return values + 3

    run = SimpleNamespace(
        config=Config(data=DataConfig(on_error="skip")), world=One(rank=0, world_size=2, device=torch.device("cpu"))
    )
    assert 1 / float(images_per_rank(run, 1)) == 0.5
    run.config = Config()
    assert images_per_rank(run, 7) == 7, "ranks have equally many and ask nobody"


def test_samples_left_out_of_validation_are_counted(config, write_images, encode_jpeg, tmp_path, capsys):
    good = encode_jpeg(np.zeros((32, 32, 3), np.uint8))
    records = [EncodedImage(b"noise" if index == 5 else good, ImageMode.JPG, 32, 32) for index in range(20)]
    write_images(tmp_path / "bad.beton", records, np.arange(20) % 4)
    train(replace(config, max_steps=1, data=replace(config.data, val=tmp_path / "bad.beton", on_error="skip")))
    assert f"left out 1 sample, such as record 5 of {tmp_path / 'bad.beton'}: " in capsys.readouterr().out
    assert read_metrics(config.out / "metrics.jsonl")[-1]["num_images"] == 19


class _Diverging(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 4)

    def forward(self, images):
        return self.layer(images.mean(dim=(1, 2, 3))[:, None]) * float("nan")


def test_a_loss_that_is_not_finite_ends_the_run(config, monkeypatch):
    monkeypatch.setitem(MODELS, "diverging", lambda **_: _Diverging())
    with pytest.raises(ValueError, match=r"the loss is nan at step 2 .*; a lower --optim\.lr"):
        train(replace(config, arch="diverging"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_float16_on_the_gpu(config, name):
    optim = OptimConfig(name=name, lr=3e-3, clip_norm=1.0)
    config = replace(config, epochs=5, device="cuda", precision="fp16", optim=optim, compile="off")
    assert train(config)["top1"] > 0.9


@pytest.mark.gpu
@pytest.mark.parametrize("compile_mode", ["off", "default", "reduce-overhead"])
def test_a_run_on_the_gpu(config, compile_mode):
    result = train(replace(config, device="cuda", compile=compile_mode))
    assert result["top1"] > 0.9
    assert result["device"].startswith("cuda")
