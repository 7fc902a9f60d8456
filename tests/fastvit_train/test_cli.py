"""The command line: where a run starts from, and what its options change."""

import dataclasses
import json
from pathlib import Path

import pytest

from fastvit_train.cli import parse
from fastvit_train.config import Config, DataConfig
from fastvit_train.config_json import to_dict
from fastvit_train.presets import build_preset


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
