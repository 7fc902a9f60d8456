"""Every preset trains, and its durations come out as its source has them."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastvit_train.cli import parse
from fastvit_train.config import Config, ModelConfig
from fastvit_train.flops import flops_per_image
from fastvit_train.models import MODELS, build_model
from fastvit_train.presets import ARCH_PRESETS, FAMILIES, PRESETS, build_preset, expectation, preset_of, run_name
from fastvit_train.schedule import Phase, lr_factor, phase_of, phases_of, total_steps
from fastvit_train.teacher import teacher_config, teacher_flops_per_image
from fastvit_train.train import train
from runs import tiny_cifar_vit

NUM_IMAGES = {"cifar10": 50_000, "finetune": 50_000, "imagenet": 1_281_167}
# timm's models for tests, in place of those that take long; they keep the options of the originals.
TINY = {
    "vit_b16": "timm/test_vit",
    "vit_s16": "timm/test_vit",
    "timm/deit3_small_patch16_224": "timm/test_vit",
    "resnet50": "timm/test_resnet",
    "resnet50_cifar": "timm/test_resnet",
}


def steps_per_epoch(name: str, config: Config) -> int:
    return NUM_IMAGES[name.split("-")[0]] // config.batch_size


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_it_trains_a_few_steps(name, make_set, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "vit_small_cifar", tiny_cifar_vit)
    monkeypatch.setattr("fastvit_train.report.draw_run", lambda folder: None)
    config = build_preset(name)
    if config.init_from is not None:
        start = train(small(build_preset("imagenet-vit-b16-130"), make_set, tmp_path / "start", num_classes=5))
        assert start["steps"] == 3
        config = replace(config, init_from=tmp_path / "start" / "checkpoint.pt")
    if config.distill.preset is not None:
        teacher = small(build_preset(config.distill.preset), make_set, tmp_path / "teacher")
        monkeypatch.setitem(PRESETS, config.distill.preset, lambda epochs=1: replace(teacher, epochs=epochs))
    result = train(small(config, make_set, tmp_path / "run"))
    assert result["steps"] == 3
    assert (result["top1_averaged"] is None) == (config.eval_averaging == "none")
    assert result["weights"] == ("ema" if config.ema_half_life_epochs else "model")


def small(config: Config, make_set, out, num_classes: int = 3) -> Config:
    """The recipe over 16 images, with a small model where its own is large, and nothing compiled.

    In batches of 8, or of 6 where each image comes three times.
    """
    out.mkdir()
    train_set = make_set(f"{out.name}/train.beton", 16, num_classes=num_classes)
    val_set = make_set(f"{out.name}/val.beton", 8, num_classes=num_classes)
    return replace(
        config,
        model=replace(config.model, bf16_residual=False),  # of no use in fp32, and refused there
        arch=TINY.get(config.arch, config.arch),
        batch_size=8 // config.data.repeats * config.data.repeats,
        accumulate=config.accumulate and min(2, config.accumulate),
        max_steps=3,
        out=out,
        device="cpu",
        precision="fp32",
        compile="off",
        data=replace(config.data, train=train_set.path, val=val_set.path, num_workers=1),
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_rate_peaks_after_the_warm_up_and_ends_at_nothing(name):
    config = build_preset(name)
    per_epoch = steps_per_epoch(name, config)
    num_steps = total_steps(config.epochs, per_epoch)
    peak = round(config.schedule.warmup_epochs * per_epoch)
    assert peak <= num_steps / 4
    first, best, last = (
        lr_factor(config.schedule, step=step, num_steps=num_steps, steps_per_epoch=per_epoch)
        for step in (0, peak, num_steps - 1)
    )
    assert first <= best == 1
    assert 0 <= last < 0.02


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_durations_follow_the_epochs(name):
    for epochs in (1, 10):
        config = build_preset(name, epochs=epochs)
        assert config.epochs == epochs
        assert config.schedule.warmup_epochs <= epochs / 3
        assert config.ema_half_life_epochs <= epochs / 10
        assert phase_of(config, 10**6) == (config.data.resolution, config.model.patch_drop)


@pytest.mark.parametrize(
    ("name", "num_steps", "warmup_steps"),
    [
        ("cifar10-resnet-fast", 300, 0),  # 12 epochs of airbench94's 25 steps
        ("finetune-cifar10", 9_991, 500),  # ViT, table 4 and appendix B.1.1: 10,000 and 500
        ("imagenet-vit-s16-90", 112_590, 10_008),  # big_vision: warmup_steps=10_000
        ("imagenet-resnet50-ffcv", 110_088, 2_502),  # ffcv-imagenet: epochs 88, peak at epoch 2
        ("imagenet-resnet50-rsb-a2", 187_500, 3_125),  # RSB, table 2: 300 epochs of batches of 2048, 5 of warm-up
        ("imagenet-resnet50-rsb-a3", 62_500, 3_125),  # 100 epochs
        ("imagenet-vit-s16-deit3", 500_000, 3_125),  # DeiT III: 800 epochs of batches of 2048, 5 of warm-up
        ("cifar10-quick", 600, 138),
        ("cifar10-vit-small-h100", 5_000, 500),
        ("cifar10-resnet50-h100", 2_910, 582),
    ],
)
def test_steps_are_those_of_the_source(name, num_steps, warmup_steps):
    config = build_preset(name)
    per_epoch = steps_per_epoch(name, config)
    assert total_steps(config.epochs, per_epoch) == num_steps
    assert round(config.schedule.warmup_epochs * per_epoch) == warmup_steps


def test_phases_of_the_recipes():
    resolutions = [phase_of(build_preset("imagenet-vit-b16-130"), epoch).resolution for epoch in range(130)]
    assert resolutions == [192] * 110 + [224] * 20  # DeiT III ends with 20 epochs at 224
    resolutions = [phase_of(build_preset("imagenet-resnet50-ffcv"), epoch).resolution for epoch in range(88)]
    assert resolutions == [160] * 71 + [192] * 17  # ffcv-imagenet ramps from epoch 65 to 76, rounding to 32
    fast = [phase_of(build_preset("cifar10-vit-small-fast"), epoch) for epoch in range(22)]
    assert fast == [(24, 0.5)] * 13 + [(32, 0.5)] * 5 + [(32, 0.0)] * 4
    minute = [phase_of(build_preset("cifar10-vit-small-h100"), epoch) for epoch in range(100)]
    assert minute == [(24, 0.5)] * 45 + [(32, 0.0)] * 55
    base = [phase_of(build_preset("cifar10-vit-b16-h100"), epoch) for epoch in range(60)]
    assert base == [(96, 0.5)] * 36 + [(128, 0.0)] * 24  # in pixels of CIFAR-10 the same: 24 and 32


def test_with_its_teacher_the_small_vit_costs_as_much_as_alone():
    distilled, plain = build_preset("cifar10-vit-small-distilled"), build_preset("cifar10-vit-small-fast")
    teacher = teacher_config(distilled, Path("run"))
    assert (teacher.preset, teacher.epochs) == ("cifar10-quick", 6)
    own = {phase: training_flops(distilled, phase) for phase in phases_of(distilled)}
    answers = {phase: teacher_flops_per_image(distilled, phase.resolution) for phase in own}
    teaching = {phase: training_flops(teacher, phase) for phase in phases_of(teacher)}
    of_parts = [total_flops(distilled, own), total_flops(distilled, answers), total_flops(teacher, teaching)]
    assert [round(part / 1e15, 2) for part in of_parts] == [1.73, 0.16, 0.2], "the docstring has them"
    assert 0.97 < sum(of_parts) / total_flops(plain, own) < 1
    assert build_preset("cifar10-vit-small-distilled", epochs=9.9).distill.epochs == 3.7


def training_flops(config: Config, phase: Phase) -> float:
    with torch.device("meta"):
        model = build_model(
            config.arch,
            num_classes=10,
            resolution=config.data.resolution,
            config=replace(config.model, bf16_residual=False),
            phases=config.phases,
        )
    return flops_per_image(model, phase)


def total_flops(config: Config, of_image: dict[Phase, float]) -> float:
    return 50_000 * sum(of_image[phase_of(config, epoch)] for epoch in range(round(config.epochs)))


@pytest.mark.parametrize(
    ("epochs", "resolutions"),
    [(0.5, [32]), (1, [32]), (2, [20, 32]), (3.5, [16, 16, 20, 32]), (4.5, [16, 16, 16, 20, 32]), (5, [32] * 5)],
)
def test_a_short_quick_run_ends_at_full_resolution(epochs, resolutions):
    config = build_preset("cifar10-quick", epochs=epochs)
    assert [phase_of(config, epoch).resolution for epoch in range(math.ceil(epochs))] == resolutions
    assert config.optim.name == ("sgd" if epochs >= 5 else "muon")


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_says_what_to_expect(name):
    assert re.match(r"\d+\.\d+ %|not yet run", expectation(name))


def test_models_have_presets_of_their_own_kind():
    for arch, name in ARCH_PRESETS.items():
        assert arch in MODELS
        assert build_preset(name).arch == arch


@pytest.mark.parametrize(
    ("arch", "resolution", "name"),
    [
        ("resnet50", None, "imagenet-resnet50-ffcv"),
        ("resnet50", 32, "imagenet-resnet50-ffcv"),
        ("resnet18", None, "imagenet-resnet50-ffcv"),
        ("resnet18", 65, "imagenet-resnet50-ffcv"),
        ("resnet18", 64, "cifar10-resnet50"),
        ("resnet18_cifar", None, "cifar10-resnet50"),
        ("vit_ti16", None, "imagenet-vit-s16-90"),
        ("vit_ti16", 32, "cifar10-vit-small"),
        ("timm/resnet18.a1_in1k", None, "imagenet-resnet50-ffcv"),
        ("timm/test_resnet", None, "imagenet-resnet50-ffcv"),
        ("timm/vit_tiny_patch16_224", 224, "imagenet-vit-s16-90"),
        ("timm/swin_tiny_patch4_window7_224", None, "imagenet-vit-s16-90"),
        ("timm/convnext_atto", None, "imagenet-vit-s16-90"),
    ],
)
def test_a_model_without_a_preset_takes_its_familys(arch, resolution, name):
    assert preset_of(arch, resolution=resolution) == name


def test_every_model_of_ours_has_a_recipe():
    assert {preset_of(arch) for arch in MODELS} <= PRESETS.keys()
    for family in FAMILIES:
        assert {family.preset, family.small_preset} <= PRESETS.keys()


@pytest.mark.parametrize("arch", ["timm/mixer_b16_224", "timm/efficientnet_b0", "nope"])
def test_a_model_of_no_family_is_refused_with_a_way_out(arch):
    with pytest.raises(
        ValueError, match=rf"no recipe for {arch}; choose one with --preset, such as --preset .* --arch"
    ):
        preset_of(arch)


def test_of_another_preset_a_model_keeps_its_own_shape():
    plain, ours, other = (build_preset("cifar10-vit-small-fast", arch=arch) for arch in (None, "vit_ti16", "resnet18"))
    assert ours == replace(plain, arch="vit_ti16")
    assert (other.arch, other.model, other.optim) == ("resnet18", ModelConfig(), plain.optim)
    assert other.phases == ((0.55, 24, 0.0), (0.8, 32, 0.0))


@pytest.mark.parametrize("arch", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext"])
def test_a_familys_recipe_trains_another_model(arch, make_set, tmp_path, monkeypatch, capsys):
    """What the family's own model has and this one may not have is left out; the run says where its recipe is from."""
    monkeypatch.setattr("fastvit_train.report.draw_run", lambda folder: None)
    config = parse(["--arch", arch, "--epochs", "1"])
    assert train(small(config, make_set, tmp_path / "run"))["steps"] == 2
    preset = build_preset(config.preset)
    line = f"recipe      {config.preset}, made for {preset.arch} and {preset.batch_size} images a step\n"
    assert line in capsys.readouterr().out


def test_a_run_is_called_after_its_preset_or_its_model():
    assert run_name(build_preset("cifar10-quick")) == "cifar10-quick"
    assert run_name(parse(["--arch", "resnet18"])) == "resnet18"
    assert run_name(Config(arch="resnet18")) == "resnet18"
    assert run_name(Config(preset="mine", arch="resnet18")) == "mine"


def test_muons_other_rates_are_airbenchs():
    optim = build_preset("cifar10-resnet-fast").optim
    assert optim.lr / 2000 == pytest.approx(0.67 * (9 / 256) ** 2)  # logits are divided by 9 here and by 256 there
    assert optim.lr * optim.norm_bias_lr_factor / 2000 == pytest.approx(0.053)
    assert optim.lr * optim.weight_decay == pytest.approx(2e-6 * 2000)


@pytest.mark.parametrize(
    ("name", "base", "kept"),
    [
        (
            "cifar10-vit-small-distilled",
            "cifar10-vit-small-fast",
            ("arch", "model", "data", "phases", "augment", "optim", "schedule", "batch_size", "label_smoothing"),
        ),
        ("cifar10-vit-small-h100", "cifar10-vit-small-fast", ("arch", "model", "data", "label_smoothing", "schedule")),
        ("cifar10-vit-b16-h100", "cifar10-vit-small-h100", ("model", "batch_size", "label_smoothing", "schedule")),
        ("cifar10-resnet50-h100", "cifar10-resnet50", ("arch", "model", "data", "phases")),
    ],
)
def test_a_recipe_keeps_what_it_says_of_its_base(name, base, kept):
    recipe, other = build_preset(name, epochs=40), build_preset(base, epochs=40)
    assert {field: getattr(recipe, field) for field in kept} == {field: getattr(other, field) for field in kept}


def test_sgd_has_the_momentum_of_its_source():
    """airbench's SGD is Nesterov's; ffcv-imagenet, ViT's fine-tuning and He et al. have plain momentum."""
    configs = {name: recipe() for name, recipe in PRESETS.items()}
    assert {name: config.optim.nesterov for name, config in configs.items() if config.optim.name == "sgd"} == {
        "cifar10-quick": True,
        "cifar10-resnet50": False,
        "cifar10-resnet50-h100": True,
        "finetune-cifar10": False,
        "imagenet-resnet50-ffcv": False,
    }
    assert build_preset("cifar10-resnet-fast").optim.nesterov


# Images as big_vision, ffcv-imagenet, timm (RSB) and DeiT III see them.
@pytest.mark.parametrize(
    ("name", "area", "center_fraction", "interpolation", "mean"),
    [
        ("imagenet-vit-s16-90", (0.05, 1), 224 / 256, "bilinear", 0.5),
        ("imagenet-vit-b16-130", (0.05, 1), 224 / 256, "bilinear", 0.5),
        ("finetune-cifar10", None, None, "bilinear", 0.5),
        ("imagenet-resnet50-ffcv", (0.08, 1), 224 / 256, "bilinear", 0.485),
        ("imagenet-resnet50-rsb-a2", (0.08, 1), 0.95, "bicubic", 0.485),
        ("imagenet-resnet50-rsb-a3", (0.08, 1), 0.95, "bicubic", 0.485),
        ("imagenet-vit-s16-deit3", (0.08, 1), 1.0, "bicubic", 0.485),
    ],
)
def test_images_are_those_of_the_source(name, area, center_fraction, interpolation, mean):
    config = build_preset(name)
    data = config.data
    assert (data.interpolation, config.augment.mean[0]) == (interpolation, mean)
    if area is None:
        assert data.crop == "whole"
    else:
        assert (data.crop, data.area, data.center_fraction) == ("random_resized", area, center_fraction)


def test_mixed_images_count_as_in_the_sources_of_the_loss():
    thresholds = {name: PRESETS[name]().bce_target_threshold for name in PRESETS if PRESETS[name]().loss == "bce"}
    assert thresholds == {
        "imagenet-resnet50-rsb-a2": 0.2,
        "imagenet-resnet50-rsb-a3": 0.2,
        "imagenet-vit-s16-deit3": 0.0,
    }
    repeats = {name: PRESETS[name]().data.repeats for name in thresholds}
    assert list(repeats.values()) == [3, 1, 3]


def test_rates_of_lamb_start_and_end_as_the_sources_have_them():
    for name, highest, first, last in (
        ("imagenet-resnet50-rsb-a2", 5e-3, 1e-4, 1e-6),
        ("imagenet-resnet50-rsb-a3", 8e-3, 1e-4, 1e-6),
        ("imagenet-vit-s16-deit3", 4e-3, 1e-6, 1e-5),
    ):
        config = build_preset(name)
        fractions = (1, config.schedule.start_fraction, config.schedule.end_fraction)
        assert [config.optim.lr * fraction for fraction in fractions] == pytest.approx([highest, first, last])
