"""A config survives JSON, and what is not one is refused."""

import json

import pytest

from fastvit_train.cli import parse
from fastvit_train.config_json import from_dict, to_dict
from fastvit_train.presets import PRESETS, build_preset


def test_phases_on_the_command_line_survive_json():
    config = parse(["--arch", "vit_small_cifar", "--phases", "0.5", "16", "0.5", "0.75", "24", "0"])
    assert config.phases == ((0.5, 16, 0.5), (0.75, 24, 0.0))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_know_their_name_and_survive_json(name: str):
    config = build_preset(name)
    assert config.preset == name
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


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
