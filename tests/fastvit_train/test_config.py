"""The config and the command line made from it."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from fastvit_train.cli import parse
from fastvit_train.config import AugmentConfig, Config, DataConfig, from_dict, to_dict
from fastvit_train.presets import PRESETS, build_preset


def test_arch_and_epochs_mean_what_they_say():
    assert parse(["--arch", "vit_b16", "--epochs", "130"]) == build_preset("imagenet-vit-b16-130")
    assert parse(["--arch=vit_b16"]) == parse([]) == build_preset("imagenet-vit-b16-130")
    shorter = parse(["--arch", "resnet50", "--epochs", "16", "--seed", "2"])
    assert shorter == dataclasses.replace(build_preset("imagenet-resnet50-ffcv", epochs=16), seed=2)
    assert parse(["--arch", "timm/convnext_atto"]) == Config(arch="timm/convnext_atto")


def test_a_presets_durations_follow_the_epochs_of_the_command_line():
    assert parse(["--preset", "cifar10-quick", "--epochs", "3"]).schedule.warmup_epochs == pytest.approx(0.69)
    config = parse(["--preset", "cifar10-quick", "--epochs", "3", "--schedule.warmup-epochs", "1"])
    assert (config.epochs, config.schedule.warmup_epochs) == (3, 1)
    with pytest.raises(ValueError, match="epochs must be positive, got 0"):
        parse(["--preset", "cifar10-quick", "--epochs", "0"])


def test_phases_on_the_command_line_survive_json():
    config = parse(["--arch", "vit_small_cifar", "--phases", "0.5", "16", "0.5", "0.75", "24", "0"])
    assert config.phases == ((0.5, 16, 0.5), (0.75, 24, 0.0))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_options_change_the_preset():
    options = {
        "preset": "cifar10-quick",
        "epochs": "3",
        "max-steps": "7",
        "seed": "4",
        "out": "r",
        "resume": "auto",
        "checkpoint-every-steps": "5",
        "data.train": "a",
        "data.val": "b",
        "data.backend": "torch",
        "data.prefetch-batches": "3",
        "optim.lr": "0.5",
        "augment.flip": "none",
    }
    config = parse(
        [text for name, value in options.items() for text in (f"--{name}", value)] + ["--data.scaled-decode"]
    )
    preset = build_preset("cifar10-quick")
    assert config.arch == preset.arch
    assert (config.epochs, config.max_steps, config.seed, config.out) == (3, 7, 4, Path("r"))
    assert (config.resume, config.checkpoint_every_steps) == ("auto", 5)
    assert (config.data.train, config.data.val, config.data.backend) == (Path("a"), Path("b"), "torch")
    assert (config.data.prefetch_batches, config.data.scaled_decode) == (3, True)
    assert (config.optim.lr, config.augment.flip) == (0.5, "none")
    assert config.data.resolution == preset.data.resolution
    assert config.label_smoothing == preset.label_smoothing


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_know_their_name_and_survive_json(name: str):
    config = build_preset(name)
    assert config.preset == name
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert PRESETS[name].__doc__


def test_a_saved_config_can_be_fed_back(tmp_path):
    config = parse(["--preset", "cifar10-quick", "--max-steps", "9", "--out", "x", "--data.area", "0.3", "1.0"])
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert parse(["--config", str(tmp_path / "config.json")]) == config
    assert parse(["--config", str(tmp_path / "config.json"), "--seed", "3"]) == dataclasses.replace(config, seed=3)


@pytest.mark.parametrize(
    "text", ["{", '{"lr": 1}', '{"data": 5}', "[]", '{"epochs": -1}', '{"optim": {"momentun": 1}}']
)
def test_damaged_configs_are_refused_by_name(text: str, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is no config|unknown option|must be"):
        parse(["--config", str(tmp_path / "config.json")])


def test_unknown_preset_lists_the_choices():
    with pytest.raises(ValueError, match="unknown preset 'nope'; choose one of: .*cifar10-quick"):
        parse(["--preset", "nope"])


def test_unknown_backend_lists_the_choices(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(["--data.backend", "nope"])
    assert exit_info.value.code == 2
    with pytest.raises(
        ValueError, match=r"data\.backend must be one of ffcv, native, resident, synthetic, torch, got nope"
    ):
        DataConfig(backend="nope")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"batch_size": -1}, "batch_size must be positive, got -1"),
        ({"max_steps": 0}, "max_steps must be positive, got 0"),
        ({"checkpoint_every_steps": 0}, "checkpoint_every_steps must be positive, got 0"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^63\), got -1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
        ({"data": {"prefetch_batches": 0}}, r"data.prefetch_batches must be positive, got 0"),
        ({"batch_size": 8, "accumulate": 3}, r"accumulate must divide batch_size 8, got 3"),
        ({"accumulate": 0}, r"accumulate must divide batch_size 256, got 0"),
        ({"ema_half_life_epochs": -1}, r"ema_half_life_epochs must not be negative, got -1"),
        ({"phases": [[0.5, 32, 0], [0.5, 64, 0]]}, r"phases must end at rising shares of the run, in \(0, 1\], got"),
        ({"phases": [[1.5, 32, 0]]}, r"phases must end at rising shares of the run, in \(0, 1\], got"),
        ({"phases": [[0.5, 32, 1]]}, r"phases must have positive resolutions and patch dropouts in \[0, 1\), got"),
        ({"phases": [[0.5, 32]]}, r"phases must be a list of 3 values, got \[0.5, 32\]"),
        ({"data": {"area": [0.1, 0.5, 1]}}, r"data.area must be a list of 2 values, got \[0.1, 0.5, 1\]"),
        ({"model": {"drop_path": 1}}, r"model.drop_path must lie in \[0, 1\), got 1"),
        ({"model": {"patch_drop": -0.5}}, r"model.patch_drop must lie in \[0, 1\), got -0.5"),
        (
            {"model": {"mimetic_init": True, "zero_residual": True}},
            r"model.zero_residual must be off with model.mimetic",
        ),
        ({"optim": {"layer_decay": 0}}, r"optim.layer_decay must lie in \(0, 1\], got 0"),
        ({"optim": {"muon": {"momentum": 1}}}, r"optim.muon.momentum must lie in \[0, 1\), got 1"),
        ({"optim": {"lr": 0}}, r"optim.lr must be positive, got 0"),
        ({"augment": {"shift": -1}}, r"augment.shift must not be negative, got -1"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_ops": 0}, "augment.num_ops must be positive, got 0"),
        ({"magnitude": 31}, "augment.magnitude must lie in [0, 30], got 31"),
        ({"color_jitter": 1.5}, "augment.color_jitter must lie in [0, 1], got 1.5"),
        ({"erasing_probability": -0.1}, "augment.erasing_probability must lie in [0, 1], got -0.1"),
        ({"switch_probability": 2}, "augment.switch_probability must lie in [0, 1], got 2"),
        ({"mixup_alpha": -1}, "augment.mixup_alpha must not be negative, got -1"),
        ({"cutmix_alpha": -1}, "augment.cutmix_alpha must not be negative, got -1"),
    ],
)
def test_augmentation_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AugmentConfig(**changes)
