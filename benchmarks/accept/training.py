"""Stages `prepare` and `train`: the steps of our presets on noise that is in memory."""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks.accept.setting import Setting
from benchmarks.peers.our_training import Training, on_noise
from benchmarks.row_files import Row
from benchmarks.step_cost import device_cost, host_milliseconds, synchronisations
from fastvit_train.config import Config
from fastvit_train.device import peak_memory
from fastvit_train.presets import build_preset
from fastvit_train.schedule import phase_of

__all__ = [
    "SUBJECTS",
    "VARIANTS",
    "VIT_B16",
    "Round",
    "Subject",
    "prepare",
    "speeds",
    "start_training",
    "timed_rounds",
    "train",
]

# How a run differs from its preset: the fields of `Config` that change.
VARIANTS: dict[str, dict[str, Any]] = {
    "auto": {},
    "no CUDA graph": {"cuda_graph": "off"},
}


_ROUND_SECONDS = 0.6
_CPU_BATCH, _CPU_RESOLUTION = 8, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A preset whose steps are measured, in the phase that it ends with."""

    preset: str
    batch_size: int
    """Such that all models fit a card together, as they are prepared at the same time."""
    is_small: bool
    """Of 32 px."""
    goal: int | None = None
    """Images per second that one H100 is to reach."""
    moonshot: int | None = None
    variants: tuple[str, ...] = ("auto",)
    cpu_arch: str | None = None
    """A model for a rehearsal on the CPU; its own when not given."""

    def config(self, setting: Setting, variant: str = "auto") -> Config:
        """The run, on the setting's images."""
        config = build_preset(self.preset, arch=None if setting.on_cuda else self.cpu_arch)
        train, val = setting.small_images if self.is_small else (setting.photos, setting.photos)
        data = replace(config.data, train=train, val=val)
        changes: dict[str, Any] = {"batch_size": self.batch_size}
        if not setting.on_cuda:
            changes = {"batch_size": _CPU_BATCH, "compile": "off"}  # the augmentation takes it half a minute
            if not self.is_small:
                data = replace(data, resolution=_CPU_RESOLUTION)
                changes["phases"] = ()
        return replace(config, data=data, device=setting.device, accumulate=1, **changes, **VARIANTS[variant])


VIT_B16 = "ViT-B/16"
# In the order of worth.
SUBJECTS = {
    VIT_B16: Subject(
        preset="imagenet-vit-b16-130",
        batch_size=256,
        is_small=False,
        goal=3600,
        moonshot=4200,
        variants=("auto", "no CUDA graph"),
        cpu_arch="timm/test_vit",
    ),
    "small ViT": Subject(
        preset="cifar10-vit-small-fast",
        batch_size=500,
        is_small=True,
        goal=55_000,
        moonshot=70_000,
        variants=("auto", "no CUDA graph"),
    ),
    "resnet-fast": Subject(
        preset="cifar10-resnet-fast",
        batch_size=2000,
        is_small=True,
        goal=200_000,
        moonshot=350_000,
        variants=("auto", "no CUDA graph"),
    ),
    "ResNet-50": Subject(
        preset="imagenet-resnet50-ffcv",
        batch_size=512,
        is_small=False,
        goal=6500,
        moonshot=8000,
        cpu_arch="timm/test_resnet",
    ),
    "ViT-S/16": Subject(preset="imagenet-vit-s16-90", batch_size=256, is_small=False, cpu_arch="timm/test_vit"),
}


class Round(NamedTuple):
    """Some steps, and what they took."""

    num_images: int
    num_steps: int
    seconds: float
    waited_seconds: float
    """Time in which the device had no data."""


def start_training(name: str, variant: str, setting: Setting, *, is_synthetic: bool = True) -> tuple[Training, float]:
    """A model's training after its first step, and the seconds that this took, compilation and all."""
    config = SUBJECTS[name].config(setting, variant)
    folder = setting.work / f"{name.replace('/', '-')}_{variant}"
    start = time.perf_counter()
    work = Training(on_noise(config) if is_synthetic else config, folder, epoch=int(config.epochs) - 1)
    work.start()
    work.steps(1)
    return work, time.perf_counter() - start


def timed_rounds(work: Training, setting: Setting, *, num_rounds: int) -> list[Round]:
    """Rounds of about 0.6 s each, after a warm-up; on the CPU of two steps each."""
    work.start()
    work.steps(3)
    num_steps = 2
    if setting.on_cuda:
        start = time.perf_counter()
        work.steps(4)
        num_steps = max(4, math.ceil(4 * _ROUND_SECONDS / (time.perf_counter() - start)))
    rounds = []
    for _ in range(num_rounds):
        work.start()
        start, waited = work.clock.now(), work.clock.waited()
        num_images = work.steps(num_steps)
        seconds = work.clock.now() - start
        rounds.append(Round(num_images, num_steps, seconds, work.clock.waited() - waited))
    return rounds


def speeds(rounds: list[Round]) -> Row:
    """The part of a row that says how fast the rounds were."""
    rates = [each.num_images / each.seconds for each in rounds]
    return {
        "images_per_second": statistics.median(rates),
        "rounds": rates,
        "steps_per_round": rounds[0].num_steps,
        "step_milliseconds": statistics.median(1e3 * each.seconds / each.num_steps for each in rounds),
        "data_wait_fraction": statistics.median(each.waited_seconds / each.seconds for each in rounds),
    }


def prepare(setting: Setting, *, name: str) -> Iterator[Row]:
    """Take one step, which leaves compiled code in the caches of torch, for the stages to come."""
    _, seconds = start_training(name, "auto", setting)
    yield {"model": name, "first_step_seconds": seconds}


def train(setting: Setting, *, name: str, variant: str) -> Iterator[Row]:
    """Measure a model's steps: first how fast they are, then where their time goes."""
    subject = SUBJECTS[name]
    work, first_step_seconds = start_training(name, variant, setting)
    rounds = timed_rounds(work, setting, num_rounds=5 if setting.on_cuda else 2)
    config = work.run.config
    flops = work.run.flops_per_image[phase_of(config, work.run.progress.epoch)]
    yield {
        "model": name,
        "variant": variant,
        "preset": subject.preset,
        "arch": config.arch,
        "resolution": phase_of(config, work.run.progress.epoch).resolution,
        "batch_size": config.batch_size,
        "first_step_seconds": first_step_seconds,
        **speeds(rounds),
        **peak_memory(work.run.world.device),
        "flops_per_image": flops,
        "peak_flops_per_second": work.run.peak_flops_per_second,
        "goal_images_per_second": subject.goal,
        "moonshot_images_per_second": subject.moonshot,
    }
    if setting.on_cuda:
        step_milliseconds = speeds(rounds)["step_milliseconds"]
        yield {"model": name, "variant": variant, **_where_time_goes(work, step_milliseconds)}


def _where_time_goes(work: Training, step_milliseconds: float) -> Row:
    work.start()
    queue_step = partial(work.queue_steps, 1)
    queue_step()
    host = host_milliseconds(queue_step)
    cost = device_cost(queue_step)
    return {
        "host_milliseconds": host,
        "device_milliseconds": cost.busy_milliseconds,
        "device_idle_fraction": max(0.0, 1 - cost.busy_milliseconds / step_milliseconds),
        "kernels_per_step": cost.num_kernels,
        "longest_kernels": cost.longest,
        "synchronisations_in_4_steps": synchronisations(queue_step),
    }
