"""The examination: all probes, within the time."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from benchmarks.doctor.decoding import Variant, measure_variants
from benchmarks.doctor.facts import machine_facts
from benchmarks.doctor.findings import NOW, Findings
from benchmarks.doctor.gpus import step_flops_per_image, step_on, steps_on_gpus
from benchmarks.doctor.options import Option, options_for
from benchmarks.doctor.prediction import Storage
from benchmarks.doctor.reading import probe_reading
from benchmarks.doctor.sample import DataSet, Sample, copy_as_it_is, draw, open_data_set
from benchmarks.doctor.step import copy_bytes_per_second, step_images_per_second
from benchmarks.harness import say
from benchmarks.noise import NoiseWatch
from fastvit_train.config import Config
from loaders import LoaderConfig
from loaders.cpus import num_threads, usable_cpus
from loaders.errors import FastvitError

__all__ = ["Question", "examine"]

_SHM = Path("/dev/shm")
_SHM_BYTES = 4 << 30
"""More than all copies of a sample take."""
_READING_SECONDS = 3.0
_FIRST_IMAGES = 32
_EPOCH_SECONDS = 0.15
"""How long an epoch over the sample is to last at least: in shorter ones beginnings and ends would count."""
_SAMPLE_IMAGES = (32, 20_000)
_SAMPLE_BYTES = 64 << 20
_NUM_ROUNDS, _TURN_SECONDS = 5, 0.25
_STEP_SECONDS = {"cpu": 10.0, "cuda": 25.0}
"""Kept for the step where a preset is named: on a GPU it is compiled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked."""

    data: Path
    config: LoaderConfig
    """How it is to be loaded."""
    backend: str
    preset: str | None
    """Whose step counts."""
    training: Config
    """That preset, or another one for the cores that other GPUs need, on the data."""
    sample_images: int | None
    """How many images to look at; None is as many as there is time for."""
    deadline: float
    """On `time.monotonic`'s clock."""


def examine(question: Question) -> Findings:
    """Measure what there is time for.

    Raises:
        FastvitError: The data are missing or damaged, or hold no images.
    """
    facts = machine_facts()
    data_set = open_data_set(question.data)
    threads = num_threads(question.config.num_workers)
    say(f"reading {question.data}")
    reading = probe_reading(data_set, num_threads=threads, seconds=_READING_SECONDS)
    with tempfile.TemporaryDirectory(prefix="fastvit-doctor-", dir=_place_in_memory()) as folder:
        sample, times = _take_sample(question, data_set, Path(folder))
        storage = Storage(
            num_images=len(data_set.images),
            bytes_per_image=sample.bytes_per_image,
            cache_bytes=facts["cache_bytes"],
            is_mapped=data_set.is_mapped,
            order=question.config.order,
        )
        now = Variant(copy_as_it_is(sample, Path(folder) / "now", times=times), question.config, question.backend)
        say("converting a sample")
        options = _options_in_time(question, sample, now, Path(folder), times=times, fits=storage.fits)
        with NoiseWatch() as watch:
            speeds = _measure(question, now, options)
    flops = step_flops_per_image(question.training)
    step, problem = _step(question, storage, flops)
    return Findings(
        config=question.config,
        facts=facts,
        storage=storage,
        reading=reading,
        options=options,
        speeds=speeds,
        noise=watch.noise(speeds),
        copy_bytes_per_second=copy_bytes_per_second() if question.config.device.type == "cuda" else None,
        step_images_per_second=step,
        step_problem=problem,
        steps_on_gpus=steps_on_gpus(question.training, flops),
    )


def _place_in_memory() -> Path | None:
    """Where files lie in memory; None, a folder for temporary files, where there is no room for them."""
    has_room = _SHM.is_dir() and psutil.disk_usage(str(_SHM)).free > _SHM_BYTES
    return _SHM if has_room else None


def _options_in_time(
    question: Question, sample: Sample, now: Variant, folder: Path, *, times: int, fits: bool
) -> list[Option]:
    """The options, as far as their copies of the sample can be made in a third of the time that is left."""
    end = time.monotonic() + (question.deadline - time.monotonic()) / 3
    options = []
    for option in options_for(sample, now, folder, times=times, fits=fits):
        options.append(option)
        if time.monotonic() > end:
            say("the other options would take too long to measure: --seconds gives them more time")
            break
    return options


def _take_sample(question: Question, data_set: DataSet, folder: Path) -> tuple[Sample, int]:
    """The sample, and how often each of its images is to stand in what is measured."""
    few = _load(data_set, _FIRST_IMAGES)
    variant = Variant(copy_as_it_is(few, folder / "few"), question.config, question.backend)
    (rate,) = measure_variants({NOW: variant}, num_rounds=1, turn_seconds=0, deadline=0)[NOW]
    if not rate:
        raise FastvitError(
            f"{data_set.path}: none of {len(few.images)} images can be decoded; fastvit-data verify says what is wrong"
        )
    least, most = _SAMPLE_IMAGES
    wanted = min(max(round(_EPOCH_SECONDS * rate), least), most, round(_SAMPLE_BYTES / few.bytes_per_image))
    sample = _load(data_set, question.sample_images or max(_FIRST_IMAGES, wanted))
    once = Variant(copy_as_it_is(sample, folder / "once"), question.config, question.backend)
    (rate,) = measure_variants({NOW: once}, num_rounds=1, turn_seconds=_EPOCH_SECONDS, deadline=0)[NOW]
    return sample, sample.copies(_EPOCH_SECONDS * rate, bytes_per_image=sample.bytes_per_image)


def _load(data_set: DataSet, count: int) -> Sample:
    drawn = draw(data_set, count)
    return Sample(data_set, [one.load() for one in drawn], [one.label for one in drawn])


def _measure(question: Question, now: Variant, options: list[Option]) -> dict[str, list[float]]:
    """The speeds of all variants; the scaling's are called by their number of threads."""
    config, threads = question.config, num_threads(question.config.num_workers)
    powers = [2**exponent for exponent in range(threads.bit_length()) if 2**exponent < threads]
    scaling = {str(number): now._replace(config=_with_threads(config, number)) for number in powers}
    variants = {NOW: now} | {option.name: option.variant for option in options} | scaling
    say(f"loading the sample in {len(variants)} ways")
    deadline = question.deadline - (_STEP_SECONDS[config.device.type] if question.preset else 0)
    return measure_variants(variants, num_rounds=_NUM_ROUNDS, turn_seconds=_TURN_SECONDS, deadline=deadline)


def _with_threads(config: LoaderConfig, number: int) -> LoaderConfig:
    return replace(config, num_workers=number)


def _step(question: Question, storage: Storage, flops: float) -> tuple[float | None, str | None]:
    """The rate of the step, or why there is none."""
    if question.preset is None:
        return None, None
    say(f"stepping as {question.preset} does")
    on = question.config.device.type
    try:
        rate = step_images_per_second(
            question.training,
            num_images=storage.num_images,
            flops=flops,
            num_threads=usable_cpus(),
            timeout_seconds=max(_STEP_SECONDS[on], question.deadline - time.monotonic()),
        )
    except (RuntimeError, TimeoutError) as error:
        problem = f"The step of {question.preset} was not measured: {error}."
        known = None if on == "cpu" else step_on(torch.cuda.get_device_name(), question.training, flops)
        if known is None:
            return None, problem
        return known, f"{problem} It counts as a step that reaches the share of the card's peak that an H200 reached."
    return rate, None
