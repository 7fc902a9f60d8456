"""Options that others make useless are refused, and what a preset leaves over is dropped."""

import re
from pathlib import Path
from typing import Any

import pytest

from fastvit_train.cli import parse
from fastvit_train.config import Config
from fastvit_train.config_json import from_dict
from fastvit_train.option_rules import RULES
from fastvit_train.presets import PRESETS, build_preset
from runs import names_of, replaced

# For each rule, in its order: what makes its options useless, and what another value of each would be.
SYNTHETIC = {"data.backend": "synthetic"}
WHOLE = {"data.crop": "whole"}
PHASES = ((0.5, 160, 0.0), (1.0, 192, 0.0))
MUON = {
    "optim.muon.lr": 0.1,
    "optim.muon.momentum": 0.5,
    "optim.muon.weight_decay": 0.5,
    "optim.muon.num_iterations": 2,
    "optim.muon.normalize": True,
    "optim.muon.rest": "sgd",
}
STARTS = {"model.mimetic_init": True, "model.zero_residual": True, "model.whiten_patches": True}
CASES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    (
        SYNTHETIC,
        {
            "data.crop": "center",
            "data.area": (0.5, 1.0),
            "data.ratio": (1.0, 1.0),
            "data.max_shift": 2,
            "data.center_fraction": 1.0,
            "data.interpolation": "bicubic",
            "data.exif_orientation": "apply",
            "data.num_workers": 2,
            "data.prefetch_batches": 3,
            "data.decode": "cpu",
            "data.scaled_decode": True,
            "data.on_error": "skip",
        },
    ),
    ({"data.backend": "torch"}, {"data.prefetch_batches": 3}),
    ({"data.backend": "dali"}, {"data.scaled_decode": True}),
    ({}, {"data.decode": "mixed"}),
    ({"data.backend": "ffcv"}, {"data.interpolation": "bicubic"}),
    ({"data.backend": "ffcv"}, {"data.exif_orientation": "apply"}),
    (WHOLE, {"data.area": (0.5, 1.0), "data.ratio": (1.0, 1.0)}),
    (WHOLE, {"data.max_shift": 2}),
    (WHOLE, {"data.center_fraction": 1.0}),
    ({}, {"augment.flip": "random"}),
    ({"augment.policy": "trivial"}, {"augment.num_ops": 1, "augment.magnitude": 5}),
    ({"augment.mixup_alpha": 1.0}, {"augment.switch_probability": 0.1}),
    ({"init_from": Path("best.pt")}, STARTS),
    ({"phases": PHASES}, {"model.patch_drop": 0.5}),
    ({"precision": "fp32"}, {"model.bf16_residual": True}),
    ({"optim.name": "sgd"}, {"optim.betas": (0.5, 0.9)}),
    ({"optim.name": "lamb"}, {"optim.momentum": 0.5, "optim.nesterov": False}),
    ({"optim.name": "sgd", "optim.momentum": 0.0}, {"optim.nesterov": False}),
    ({"optim.name": "sgd"}, MUON),
    ({"schedule.warmup_epochs": 0.0}, {"schedule.start_fraction": 0.5}),
    ({"augment.mixup_alpha": 1.0}, {"bce_target_threshold": 0.2}),
    ({"distill.teacher": Path("run")}, {"distill.preset": "cifar10-quick", "distill.epochs": 3.0}),
    ({}, {"distill.epochs": 3.0}),
    ({}, {"distill.kind": "hard", "distill.weight": 0.9, "distill.temperature": 2.0}),
    ({"distill.preset": "cifar10-quick", "distill.kind": "hard"}, {"distill.temperature": 2.0}),
)


def test_every_rule_has_a_case():
    assert [rule.options for rule in RULES] == [tuple(values) for _, values in CASES]
    assert {option for rule in RULES for option in rule.options} <= set(names_of(Config()))


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [(given, option, value) for given, values in CASES for option, value in values.items()],
    ids=str,
)
def test_an_option_of_no_use_is_refused(given: dict, option: str, value: object):
    config = replaced(Config(), given)  # with the option at its default, all is well
    with pytest.raises(ValueError, match=f"{re.escape(option)} must stay .* unless .*, got {re.escape(str(value))}"):
        replaced(config, {option: value})


@pytest.mark.parametrize("backend", ["native", "dali", "nvjpeg"])
def test_batches_are_prefetched_by_those_that_say_so(backend: str):
    assert replaced(Config(), {"data.backend": backend, "data.prefetch_batches": 3}).data.prefetch_batches == 3


def test_json_and_the_command_line_refuse_it_too():
    message = r"optim\.momentum must stay 0\.9 unless optim\.name is sgd, or muon with optim\.muon\.rest sgd, got 0\.5"
    with pytest.raises(ValueError, match=message):
        from_dict({"optim": {"name": "lamb", "momentum": 0.5}})
    with pytest.raises(ValueError, match=message):
        parse(["--arch", "vit_b16", "--optim.momentum", "0.5"])


def test_what_a_preset_has_no_use_for_any_more_is_dropped():
    preset = build_preset("cifar10-resnet-fast")
    config = parse(["--preset", "cifar10-resnet-fast", "--optim.name", "sgd"])
    assert config.optim.muon == Config().optim.muon
    assert config.optim.momentum == preset.optim.momentum, "sgd has a use for it"
    assert config == replaced(preset, {"optim.name": "sgd", "optim.muon": Config().optim.muon})


def test_another_teacher_takes_the_place_of_a_presets():
    preset = build_preset("cifar10-vit-small-distilled")
    other = parse(["--preset", "cifar10-vit-small-distilled", "--distill.teacher", "run"])
    assert other == replaced(preset, {"distill.preset": None, "distill.epochs": None, "distill.teacher": Path("run")})
    none = parse(["--preset", "cifar10-vit-small-distilled", "--distill.preset", "None"])
    assert none.distill == Config().distill


@pytest.mark.parametrize("option", ["--optim.muon.num-iterations=3", "--optim.muon.num_iterations=3"])
def test_what_was_typed_is_refused_though_the_preset_has_it(option: str):
    with pytest.raises(ValueError, match=r"optim\.muon\.num_iterations must stay 5 unless optim\.name is muon, got 3"):
        parse(["--preset", "cifar10-resnet-fast", "--optim.name", "sgd", option])


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "options",
    [
        ["--optim.name", "adamw"],
        ["--optim.name", "sgd"],
        ["--optim.name", "muon"],
        ["--data.backend", "synthetic"],
        ["--data.backend", "native", "--data.crop", "random_resized"],
        ["--data.crop", "whole"],
        ["--augment.policy", "none", "--augment.mixup-alpha", "0", "--augment.cutmix-alpha", "0"],
        ["--init-from", "best.pt"],
        ["--precision", "fp32"],
        ["--loss", "bce"],
        ["--schedule.warmup-epochs", "0"],
        ["--distill.preset", "cifar10-quick"],
        ["--distill.teacher", "run"],
    ],
    ids=" ".join,
)
def test_one_option_can_be_changed_in_every_preset(name: str, options: list[str]):
    assert parse(["--preset", name, *options]).preset == name
