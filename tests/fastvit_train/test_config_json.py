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
        ({"optim": {"name": "adam"}}, r"optim.name must be one of adamw, sgd, lamb, muon, got adam"),
        ({"optim": {"muon": {"rest": "lamb"}}}, r"optim.muon.rest must be one of adamw, sgd, got lamb"),
        ({"loss": "focal"}, r"loss must be one of cross_entropy, bce, got focal"),
        ({"augment": {"flip": "randm"}}, r"augment.flip must be one of none, random, alternating, got randm"),
        ({"augment": {"policy": "rand"}}, r"augment.policy must be one of none, .*three, got rand"),
        ({"precision": "float16"}, r"precision must be one of auto, bf16, fp16, fp32, fp8, got float16"),
        ({"schedule": {"decay": "step"}}, r"schedule.decay must be one of cosine, linear, got step"),
        ({"data": {"crop": "middle"}}, r"data.crop must be one of random_resized, center, whole, shift, got middle"),
        ({"data": {"order": "shuffled"}}, r"data.order must be one of sequential, random, quasi_random, got shuffled"),
        ({"data": {"backend": "lmdb"}}, r"data.backend must be one of dali, .*torch, got lmdb"),
        ({"data": {"backend": "dali", "decode": "gpu"}}, r"data.decode must be one of auto, cpu, mixed, got gpu"),
        ({"resume": "yes"}, r"resume must be one of never, auto, got yes"),
        ({"compile": "on"}, r"compile must be one of auto, off, .*, got on"),
        ({"eval_averaging": "crops"}, r"eval_averaging must be one of none, flip, flip_shift, got crops"),
        ({"trackers": ["mlflow", "csv"]}, r"trackers must be a tuple, each item one of .*, got \('mlflow', 'csv'\)"),
        ({"trackers": ["mlflow", "mlflow"]}, r"trackers must name each only once, got"),
        ({"optim": {"betas": [2, 3]}}, r"optim.betas must lie in \[0, 1\), got \(2, 3\)"),
        ({"optim": {"momentum": 5}}, r"optim.momentum must lie in \[0, 1\), got 5"),
        ({"optim": {"norm_bias_lr_factor": -1}}, r"optim.norm_bias_lr_factor must not be negative, got -1"),
        ({"optim": {"lr": "1e-3"}}, r"optim.lr must be a finite number, got '1e-3'"),
        ({"schedule": {"start_fraction": -3}}, r"schedule.start_fraction must lie in \[0, 1\], got -3"),
        ({"schedule": {"end_fraction": 2}}, r"schedule.end_fraction must lie in \[0, 1\], got 2"),
        ({"data": {"area": [5, 1]}}, r"data.area must be a range in \(0, 1\], got \(5, 1\)"),
        ({"data": {"area": [0.5, 1.5]}}, r"data.area must be a range in \(0, 1\], got \(0.5, 1.5\)"),
        ({"data": {"ratio": [2, 1]}}, r"data.ratio must be a range of positive numbers, got \(2, 1\)"),
        ({"data": {"max_shift": -1}}, r"data.max_shift must not be negative, got -1"),
        ({"data": {"crop": "shift", "max_shift": 112}}, r"data.max_shift must be below 112, half the side"),
        ({"data": {"train": 5}}, r"data.train must be of type Path, got 5"),
        ({"data": {"scaled_decode": 1}}, r"data.scaled_decode must be True or False, got 1"),
        ({"augment": {"shift": 224}}, r"augment.shift must be below 224, the side of the smallest images, got 224"),
        ({"augment": {"shift": 16}, "phases": [[0.5, 16, 0]]}, r"augment.shift must be below 16, .*, got 16"),
        ({"augment": {"mean": [123.7, 116.3, 103.5]}}, r"augment.mean must lie in \[0, 1\], got"),
        ({"augment": {"std": [0.2, 0.2, 0]}}, r"augment.std must lie in \(0, 1\], got"),
        ({"epochs": True}, r"epochs must be a finite number, got True"),
        ({"epochs": float("nan")}, r"epochs must be a finite number, got nan"),
        ({"phases": [[0.5, 32.5, 0]]}, r"phases must be a tuple, each item a tuple of .*, got"),
        ({"phases": 3}, r"phases must be a tuple, each item a tuple of .*, got 3"),
        ({"seed": 1.5}, r"seed must be a whole number, got 1.5"),
        ({"max_steps": "7"}, r"max_steps must be a whole number or None, got '7'"),
        ({"device": "tpu"}, r"device must be auto, cuda or cpu, got tpu"),
        ({"checkpoint_every_minutes": 0}, r"checkpoint_every_minutes must be positive, got 0"),
        (
            {"compile": "reduce-overhead", "accumulate": 2},
            r"compile must be .*max-autotune-no-cudagraphs with accumulate above 1, .* got reduce-overhead",
        ),
        ({"compile": "max-autotune", "accumulate": 2}, r"compile must be .* got max-autotune"),
        ("text", r"a config must be an object, got text"),
        ({"data": [1]}, r"data must be an object, got \[1\]"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: object, message: str):
    with pytest.raises(ValueError, match=message):
        from_dict(values)


def test_cuda_graphs_are_refused_with_accumulation_alone():
    assert from_dict({"compile": "reduce-overhead"}).needs_whole_batches
    assert from_dict({"compile": "max-autotune-no-cudagraphs", "accumulate": 2}).accumulate == 2
