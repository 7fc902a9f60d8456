"""How many images per second a preset's step takes on GPUs that are not here."""

from dataclasses import replace

import torch

from fastvit_train.config import Config
from fastvit_train.flops import flops_per_image, peak_flops_per_second
from fastvit_train.models import build_model
from fastvit_train.schedule import Phase, phase_of
from fastvit_train.teacher import teacher_flops_per_image

__all__ = ["GPUS", "MEASURED_SHARES", "last_phase", "step_flops_per_image", "step_on", "steps_on_gpus"]

GPUS = {
    "L4": "NVIDIA L4",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "A100": "NVIDIA A100",
    "H100": "NVIDIA H100 80GB HBM3",
    "H200": "NVIDIA H200",
    "B200": "NVIDIA B200",
}
"""Cards, and what CUDA calls them."""

MEASURED_SHARES = {
    "imagenet-vit-b16-130": 0.403,
    "imagenet-vit-s16-90": 0.274,
    "imagenet-resnet50-ffcv": 0.174,
    "cifar10-vit-small-fast": 0.250,
    "cifar10-resnet-fast": 0.226,
}
"""The share of its peak that one H200 reached in a preset's step: benchmarks/results/h200_2026-11-27_accept.jsonl."""


def steps_on_gpus(config: Config, flops: float) -> dict[str, float]:
    """Images per second of a preset's step on each card, if it reaches there the share of its peak that an H200 did.

    Args:
        config: The preset; one that was not measured counts as the measured one whose model is most like its own.
        flops: Of an image.
    """
    rates = {name: step_on(full_name, config, flops) for name, full_name in GPUS.items()}
    return {name: rate for name, rate in rates.items() if rate is not None}


def step_on(card: str, config: Config, flops: float) -> float | None:
    """The same for one card, by the name that CUDA gives it; None for cards whose peak is not known."""
    relative = "imagenet-resnet50-ffcv" if "resnet" in config.arch else "imagenet-vit-b16-130"
    share = MEASURED_SHARES.get(str(config.preset), MEASURED_SHARES[relative])
    peak = peak_flops_per_second(card, torch.bfloat16)
    return None if peak is None else share * peak / flops


def last_phase(config: Config) -> Phase:
    """What the last epoch of a run trains at."""
    return phase_of(config, max(0, int(config.epochs) - 1))


def step_flops_per_image(config: Config) -> float:
    """`flops_per_image` of a preset's model and its teacher in its last phase, counted without computing anything."""
    options = replace(config.model, bf16_residual=False)  # which counts alike, and autocast knows no meta device
    with torch.device("meta"):
        model = build_model(
            config.arch, num_classes=1, resolution=config.data.resolution, config=options, phases=config.phases
        )
    phase = last_phase(config)
    return flops_per_image(model, phase) + teacher_flops_per_image(config, phase.resolution)
