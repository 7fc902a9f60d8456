"""What images per second to expect of the loader on one's own data and machine, what limits it, and what to change."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.bench_loader import CROPS
from benchmarks.doctor.decoding import Variant
from benchmarks.doctor.examination import Question, examine
from benchmarks.doctor.gpus import last_phase
from benchmarks.doctor.report import print_report
from benchmarks.doctor.verification import measure_loader
from benchmarks.environment import environment
from benchmarks.harness import say, seconds_since_start
from benchmarks.options import check_positive
from benchmarks.row_files import Row, append_rows
from fastvit_train.config import Config
from fastvit_train.data import loader_configs
from fastvit_train.distributed import World
from fastvit_train.presets import build_preset
from loaders import LoaderConfig
from loaders.cpus import num_threads
from loaders.errors import FastvitError

__all__ = ["LOADER_LIMITS", "BenchDoctor", "bench_doctor", "diagnose"]

LOADER_LIMITS = 3
"""The exit code when the loader makes fewer images per second than the preset's step takes."""

_SMALL_SIDE = 64  # pixels, up to which an image is small
_WARM_SECONDS, _VERIFY_SECONDS = 20.0, 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchDoctor:
    """Say how fast the loader will be on these data and this machine, what limits it, and what each change would give.

    It takes less than a minute. Exit codes: 0, or 3 if the loader makes fewer images per second than the preset's step
    takes; 1 after an error.
    """

    data: tyro.conf.Positional[Path | None] = None
    """A .beton file, a folder with a sub-folder for each class, or shards; that of the preset when not given."""
    preset: str | None = None
    """Load as this preset does, and compare with its step on this machine."""
    case: Literal["train", "val", "whole", "shift"] | None = None
    """Random resized crops in random order; center crops in file order; whole images; or these flipped and shifted.
    When not given, as the preset trains, else train."""
    resolution: int | None = None
    """Side of the images that the loader hands over, in pixels; when not given, as the preset has it at its end, else
    224."""
    batch_size: int | None = None
    """Images per batch; as the preset has it, else 256."""
    threads: int | None = None
    """Of the loader; when not given, as the preset has it, else as many as the CPUs that this process may use."""
    order: Literal["random", "quasi_random", "sequential"] | None = None
    """In which images are read; as the preset or the case has it when not given."""
    scaled_decode: bool | None = None
    """Decode at 1/2, 1/4 or 1/8 of the size where that is enough; as the preset has it when not given, else not."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where the batches are wanted: cuda, cpu, or auto: cuda where there is one."""
    sample_images: int | None = None
    """How many images to look at; when not given, as many as there is time for."""
    seconds: float = 50.0
    """How long it may take, without --verify."""
    verify: bool = False
    """Then let the loader run over all the data and say how far the prediction was off."""
    json: Path | None = None
    """Append the row, a line of JSON, to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "batch_size", "threads", "sample_images", "seconds")
        if self.data is None and self.preset is None:
            raise FastvitError("name the data to look at, a .beton file, a folder or shards, or a preset with --preset")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise FastvitError("device is cuda, but torch sees no CUDA device; leave --device out")
        _ = self.training

    @property
    def training(self) -> Config:
        """The preset on the data; without a preset, one whose images are as large as those that are asked for."""
        small = (self.resolution or 224) <= _SMALL_SIDE
        config = build_preset(self.preset or ("cifar10-resnet-fast" if small else "imagenet-resnet50-ffcv"))
        given: dict[str, Any] = {
            "num_workers": self.threads,
            "order": self.order,
            "scaled_decode": self.scaled_decode,
        }
        data = replace(config.data, **{name: value for name, value in given.items() if value is not None})
        if self.data is not None:
            data = replace(data, train=self.data, val=self.data)
        return replace(config, data=data, device=self.device)

    @property
    def loader_config(self) -> LoaderConfig:
        """What the loader is asked for."""
        training, device = self.training, torch.device("cuda" if self._on_gpu else "cpu")
        if self.preset is None:
            config = LoaderConfig(
                batch_size=256,
                resolution=224,
                crop="random_resized",
                order="random",
                drop_last=False,
                num_workers=self.threads,
                device=device,
                scaled_decode=training.data.scaled_decode,
            )
        else:
            train, val = loader_configs(training, World(rank=0, world_size=1, device=device))
            config = replace(val if self.case == "val" else train, drop_last=False)
            config = replace(config, resolution=last_phase(training).resolution)
        order = self.order or ("sequential" if self.case == "val" else config.order)
        return replace(
            config,
            resolution=self.resolution or config.resolution,
            batch_size=self.batch_size or config.batch_size,
            crop=config.crop if self.case is None else CROPS[self.case],
            order=order,
        )

    @property
    def _on_gpu(self) -> bool:
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())


def bench_doctor(config: BenchDoctor) -> int:
    """Examine data and machine, print what was found, and return the exit code."""
    row = diagnose(config, start=time.monotonic() - seconds_since_start())
    print_report(row)
    step = row["limits"]["step"]
    return LOADER_LIMITS if step is not None and row["predicted_images_per_second"] < step else 0


def diagnose(config: BenchDoctor, *, start: float) -> Row:
    """Examine data and machine; the row, which `config.json` gets as well.

    Args:
        config: What is asked.
        start: From when on `config.seconds` count, on `time.monotonic`'s clock.

    Raises:
        FastvitError: The data are missing or damaged, or hold no images.
        OSError: The file of rows cannot be written, which shows before anything is measured.
    """
    if config.json is not None:
        append_rows(config.json, [])
    loading, training = config.loader_config, config.training
    question = Question(
        data=training.data.train,
        config=loading,
        backend=training.data.backend if config.preset else "native",
        preset=config.preset,
        training=training,
        sample_images=config.sample_images,
        deadline=start + config.seconds,
    )
    found = examine(question).row()
    seconds = time.monotonic() - start
    row = {
        "benchmark": "doctor",
        **_asked(config, question),
        **found,
        "seconds": seconds,
        **_verified(config, question, found),
    }
    row |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
    if config.json is not None:
        append_rows(config.json, [row])
    return row


def _asked(config: BenchDoctor, question: Question) -> Row:
    loading = question.config
    cases = {crop: case for case, crop in CROPS.items()}
    return {
        "data": str(question.data),
        "preset": config.preset,
        "gpu_preset": question.training.preset,
        "backend": question.backend,
        "case": cases[loading.crop],
        "resolution": loading.resolution,
        "batch_size": loading.batch_size,
        "threads": num_threads(loading.num_workers),
        "order": loading.order,
        "scaled_decode": loading.scaled_decode,
    }


def _verified(config: BenchDoctor, question: Question, found: Row) -> Row:
    if not config.verify:
        return {}
    say("loading all the data")
    variant = Variant(question.data, question.config, question.backend)
    measured = measure_loader(variant, warm_seconds=_WARM_SECONDS, seconds=_VERIFY_SECONDS)
    miss = found["predicted_images_per_second"] / measured - 1
    return {"measured_images_per_second": measured, "miss": miss}
