"""What experiments take, before they start: operations over rates that were measured, here or on a GPU."""

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.accept.photos import make_small_images
from benchmarks.harness import Contender, say
from benchmarks.peers.our_training import Training
from benchmarks.plan.forecast import Cluster, forecast
from benchmarks.plan.job import Job, describe_job
from benchmarks.plan.rates import PhaseRates, Rates, committed_rows, loader_rate, rates_of_card
from benchmarks.row_files import Row
from fastvit_train.config import Config, DistillConfig, ScheduleConfig
from fastvit_train.flops import peak_flops_per_second
from fastvit_train.schedule import Phase
from fastvit_train.teacher import TEACHER, teacher_config, teacher_side
from loaders.errors import FastvitError

__all__ = ["estimate_source", "estimated_seconds"]

_GPU = "NVIDIA H100 80GB HBM3"
"""Whose time is estimated where there is no GPU."""
_SHARES_OF_BATCH = (20, 4)
"""A step is measured on a 20th and on a 4th of its images: whole ones take seconds on a CPU."""
_SECONDS = 0.5
"""That each is measured for, at least."""


def estimate_source(scale: str, *, gpu: str | None = None) -> str:
    """Where the figures of `estimated_seconds` come from, in words."""
    if scale == "cpu":
        return "small training steps measured on this machine now"
    return f"rates of benchmarks/results, for one {_card(gpu)}"


def estimated_seconds(
    configs: Mapping[str, Config],
    data: Mapping[str, tuple[int, int]],
    *,
    scale: str,
    gpu: str | None = None,
) -> dict[str, float | None]:
    """The time of each run from the start of its program to its end.

    On the scale cpu, steps of each kind are measured on this machine, which takes about half a minute. On the others,
    rates of benchmarks/results are taken, and nothing runs. What torch.compile makes for one run, the later ones find
    in its cache. A run that distills has the time of its teacher's training in it, and of the teacher's answers.

    Args:
        configs: The runs by name, in their order.
        data: The number of images that each has for training and for validation.
        scale: One of `SCALES`.
        gpu: Which card the other scales are for, one of it, as `torch.cuda.get_device_name` has it; this machine's when
            not given, or an H100 where it has none.

    Returns:
        Seconds by name; None where no rate is known.

    Raises:
        FastvitError: The images make no batch, or the rates of `gpu` are not known.
        RuntimeError: A step failed.
    """
    jobs = {name: job for name, config in configs.items() for name, job in _jobs(name, config, *data[name]).items()}
    rates = _measured_rates(jobs) if scale == "cpu" else _rates_of_card(jobs, gpu)
    cluster = Cluster(
        num_gpus=1,
        gpus_per_node=8,
        cores=None,  # as many as are needed; what loading takes of a CPU's cores is in its steps
        bytes_per_image=1.0,  # of no storage that is limited
        storage_bytes_per_second=None,
        cache_bytes=0.0,
        nvlink_bytes_per_second=3.6e11,
        network_bytes_per_second=3.2e11,
    )
    return {name: _seconds(name, config, jobs, rates, cluster) for name, config in configs.items()}


def _jobs(name: str, config: Config, num_images: int, num_val_images: int) -> dict[str, Job]:
    """What a run has to do by itself, and what its teacher has to before."""
    jobs = {name: replace(config, distill=DistillConfig())}
    if config.distill.is_on:
        jobs = {f"{name}/{TEACHER}": teacher_config(config, Path())} | jobs
    return {
        name: describe_job(config, num_images=num_images, num_val_images=num_val_images)
        for name, config in jobs.items()
    }


def _seconds(
    name: str, config: Config, jobs: Mapping[str, Job], rates: Mapping[str, Rates | None], cluster: Cluster
) -> float | None:
    rate = rates[name]
    if rate is None:
        return None
    seconds = 3600 * forecast(jobs[name], rate, cluster).hours
    if not config.distill.is_on:
        return seconds
    teacher, rate = jobs[f"{name}/{TEACHER}"], rates[f"{name}/{TEACHER}"]
    if rate is None:
        return None
    in_the_same_program = replace(rate, rest_seconds=0.0)
    seconds += 3600 * forecast(teacher, in_the_same_program, cluster).hours
    return seconds + _answering_seconds(jobs[name], teacher, rate)


def _answering_seconds(student: Job, teacher: Job, rate: Rates) -> float:
    """What the teacher takes of one device to look at the images that its student learns from.

    It goes by operations, of which it has a third of those of its training.
    """
    trained = Phase(teacher.config.data.resolution, 0.0)
    flops_per_second = rate.evaluation_images_per_second * teacher.evaluation_flops_per_image
    seconds = 0.0
    for epoch in student.epochs:
        side = teacher_side(epoch.phase.resolution, teacher.config, student.config)
        flops = teacher.flops_per_image[trained] / 3 * (side / trained.resolution) ** 2
        seconds += epoch.num_steps * student.config.batch_size * flops / flops_per_second
    return seconds


def _card(gpu: str | None) -> str:
    if gpu is None:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else _GPU
    if peak_flops_per_second(gpu, torch.bfloat16) is None:
        raise FastvitError(f"--gpu {gpu}: its rates are not known; name it as torch does, such as {_GPU}")
    return gpu


def _rates_of_card(jobs: Mapping[str, Job], gpu: str | None) -> dict[str, Rates | None]:
    """Rates by run, from rows that were measured on a GPU; None where no row has its model."""
    card, rows, per_core = _card(gpu), committed_rows(), loader_rate()
    compiled, rates = set[Config](), dict[str, Rates | None]()
    for name, job in jobs.items():
        rate = _rate_of_card(job, card, rows, per_core=per_core)
        kinds = {_of_one_phase(job.config, phase) for phase in rate.phases} if rate else set()
        if rate and kinds:
            share = len(kinds - compiled) / len(kinds)
            rate = replace(rate, first_steps_seconds=share * rate.first_steps_seconds)
        compiled |= kinds
        rates[name] = rate
    return rates


def _rate_of_card(job: Job, card: str, rows: Sequence[Row], *, per_core: float) -> Rates | None:
    # A ResNet for small images differs in its first layers alone.
    for arch in dict.fromkeys((job.config.arch, job.config.arch.removesuffix("_cifar"))):
        with suppress(FastvitError):  # of a model that was measured nowhere
            return rates_of_card(replace(job, config=replace(job.config, arch=arch)), card, rows, per_core=per_core)
    return None


def _measured_rates(jobs: Mapping[str, Job]) -> dict[str, Rates | None]:
    """Rates by run, from steps of each kind in a process of its own, whose memory goes with it."""
    kinds = {_of_one_phase(job.config, epoch.phase) for job in jobs.values() for epoch in job.epochs}
    say(f"measuring training steps of {len(kinds)} kind{'' if len(kinds) == 1 else 's'}")
    begin = time.perf_counter()
    with Contender("the measurement of training steps", SmallSteps) as process:
        process.wait_until_ready()
        startup = time.perf_counter() - begin
        seconds = {kind: _step_seconds(kind, process) for kind in kinds}
    return {name: _rates_of_steps(job, seconds, startup=startup) for name, job in jobs.items()}


def _rates_of_steps(job: Job, seconds: Mapping[Config, float], *, startup: float) -> Rates:
    config = job.config
    images_per_second = {
        phase: config.batch_size / seconds[_of_one_phase(config, phase)]
        for phase in {epoch.phase for epoch in job.epochs}
    }
    flops_per_second = images_per_second[job.last_phase] * job.flops_per_image[job.last_phase]
    return Rates(
        source="measured",
        # What loading takes of the same cores is in the steps.
        phases={phase: PhaseRates(rate, math.inf) for phase, rate in images_per_second.items()},
        evaluation_images_per_second=flops_per_second / job.evaluation_flops_per_image,
        rest_seconds=startup,
        first_steps_seconds=0.0,  # nothing is compiled
        on_cpu=True,
    )


def _of_one_phase(config: Config, phase: Phase) -> Config:
    """A run all of which is one phase of `config`; the same for all runs whose steps there take the same time."""
    return replace(
        config,
        preset=None,
        epochs=1.0,
        max_steps=None,
        seed=0,
        init_from=None,
        out=None,
        resume="never",
        phases=(),
        eval_every_epochs=1,
        checkpoint_every_epochs=1,
        ema_half_life_epochs=1.0 if config.ema_half_life_epochs else 0.0,
        data=replace(config.data, train=Path(), val=Path(), resolution=phase.resolution),
        # How the weights start costs a step nothing.
        model=replace(
            config.model,
            patch_drop=phase.patch_drop,
            mimetic_init=False,
            zero_residual=False,
            whiten_patches=False,
        ),
        schedule=ScheduleConfig(),
    )


def _step_seconds(config: Config, process: Contender["SmallSteps"]) -> float:
    """The time of a training step on this machine's CPU: that of smaller steps, and what more images add to it.

    The optimizer takes its time once a step, the model for each image; two sizes tell them apart.
    """
    small, large = (math.ceil(config.batch_size / share) for share in _SHARES_OF_BATCH)
    of_small, of_large = (_small_step_seconds(config, size, process) for size in (small, large))
    if small == large:
        return of_large
    each = max(0.0, of_large - of_small) / (large - small)
    return of_large + (config.batch_size - large) * each


def _small_step_seconds(config: Config, batch_size: int, process: Contender["SmallSteps"]) -> float:
    process.run(partial(SmallSteps.start, config=config, batch_size=batch_size))
    seconds = list[float]()
    while sum(seconds) < _SECONDS:
        seconds.append(process.run(SmallSteps.step).seconds)
    return statistics.median(seconds)


class SmallSteps:
    """Training steps with fewer images than the run has, one at a time; public for the process that makes them."""

    def start(self, *, config: Config, batch_size: int) -> int:
        """Make the model, and the first step, which says nothing about speed; returns its number of images."""
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        images = make_small_images(folder / "images.beton", num_images=max(batch_size, 10), seed=0)
        data = replace(config.data, train=images, val=images)
        small = replace(config, batch_size=batch_size, accumulate=None, compile="off", data=data)
        self._training = Training(small, folder / "run", epoch=0)
        self._training.start()
        return self.step()

    def step(self) -> int:
        """Make a step; returns its number of images."""
        return self._training.steps(1)
