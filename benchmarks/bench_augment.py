"""Augmentation side by side: ours on the device, torchvision's in worker processes, kornia's on the device."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.intervals import median
from benchmarks.options import check_positive, split_names
from benchmarks.peers.augmentation import AugmentJob, Batches, kornia_batches, torchvision_batches
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, interval_text, measured_rows, print_table, ratio_column, ratios
from fastvit_train.augment import augment
from fastvit_train.config import AugmentConfig
from fastvit_train.device import keep_freed_memory

__all__ = ["CONTENDERS", "Augmenting", "BenchAugment", "bench_augment"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchAugment:
    """Measure augmentations side by side, from uint8 images in memory to normalised float32 batches on the device."""

    policy: Literal["randaugment", "autoaugment", "trivial", "three"] = "randaugment"
    """Which: RandAugment (2 operations, magnitude 9), AutoAugment (its policy for CIFAR-10), TrivialAugment, or
    3-Augment with colour jitter."""
    resolution: int = 224
    """Side of the images, in pixels."""
    contenders: tuple[str, ...] = ("fastvit", "torchvision", "torchvision-uint8", "kornia")
    """Which, separated by spaces or commas: fastvit, compiled; torchvision in worker processes, which normalise as
    well, or hand over uint8 that is normalised in batches; kornia, which draws one sequence of operations for the whole
    batch."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the batches are to be."""
    threads: int = 2
    """Threads of those that work on the CPU in one process, worker processes of the others."""
    batch_size: int = 256
    """Images per batch."""
    rounds: int = 5
    """How often each is measured, taking turns, after a warm-up."""
    batches: int = 8
    """Batches in a round."""
    json: Path | None = None
    """Append a line of JSON per contender to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "threads", "batch_size", "rounds", "batches")
        _ = self.names

    @property
    def names(self) -> list[str]:
        """The contenders, in the order of their turns."""
        return split_names(self.contenders, CONTENDERS, kind="contender")

    @property
    def job(self) -> AugmentJob:
        """What each is asked for, on noise."""
        pixels = torch.randint(256, (self.batch_size, self.resolution, self.resolution, 3), dtype=torch.uint8)
        return AugmentJob(
            images=pixels.permute(0, 3, 1, 2),
            config=AugmentConfig(policy=self.policy, color_jitter=0.3 if self.policy == "three" else 0.0),
            device=self.device,
            num_workers=self.threads,
            num_batches=self.batches,
        )


def _fastvit_batches(job: AugmentJob) -> Batches:
    generator = torch.Generator(job.device).manual_seed(0)
    images = job.images.to(job.device)  # once: the augmentation is measured, not the bus
    labels = torch.zeros(len(images), dtype=torch.int64, device=job.device)

    def batches(number: int) -> Iterator[Tensor]:
        for _ in range(number):
            yield augment(
                images,
                labels,
                job.config,
                index=labels,
                epoch=0,
                num_classes=1,
                generator=generator,
                dtype=torch.float32,
                compiled=True,
            ).images

    return batches


CONTENDERS: dict[str, Callable[[AugmentJob], Batches]] = {
    "fastvit": _fastvit_batches,
    "torchvision": partial(torchvision_batches, normalizes=True),
    "torchvision-uint8": partial(torchvision_batches, normalizes=False),
    "kornia": kornia_batches,
}


class Augmenting:
    """One contender in its own process: the work that is measured."""

    def __init__(self, name: str, config: BenchAugment) -> None:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        torch.manual_seed(0)
        self.config = config
        self._batches = CONTENDERS[name](config.job)

    def round(self) -> int:
        """Make a round's batches."""
        num_images = sum(len(batch) for batch in self._batches(self.config.batches))
        if self.config.device == "cuda":
            torch.cuda.synchronize()
        return num_images


def bench_augment(config: BenchAugment) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A contender failed.
    """
    rows = measured_rows(
        "augment",
        {name: partial(Augmenting, name, config) for name in config.names},
        partial(_measure, config),
        partial(_row, config),
        json=config.json,
    )
    _print(rows)
    return rows


def _measure(config: BenchAugment, contenders: dict[str, Contender[Augmenting]]) -> dict[str, list[Turn]]:
    for contender in contenders.values():
        contender.run(Augmenting.round)
    return take_turns(contenders, config.rounds, lambda name, _: contenders[name].run(Augmenting.round))


def _row(config: BenchAugment, name: str, turns: dict[str, list[Turn]]) -> Row:
    mine, first = turns[name], turns[config.names[0]]
    milliseconds = [1000 * turn.seconds / config.batches for turn in mine]
    time_per_batch = median(milliseconds)
    return {
        "contender": name,
        "policy": config.policy,
        "resolution": config.resolution,
        "device": config.device,
        "threads": config.threads,
        "batch_size": config.batch_size,
        "milliseconds_per_batch": time_per_batch.value,
        "milliseconds_per_batch_interval": time_per_batch.interval,
        "rounds": milliseconds,
        **ratios("ratio_to_first", first, mine),  # of times
        "cpu_seconds_per_image": statistics.median(turn.cpu_seconds / turn.num_images for turn in mine),
        "peak_rss_bytes": mine[-1].peak_rss_bytes,
        "peak_device_memory_bytes": mine[-1].peak_device_memory_bytes,
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "contender": [row["contender"] for row in rows],
        "ms/batch": [f"{row['milliseconds_per_batch']:,.1f}" for row in rows],
        "95 % interval": [interval_text(row["milliseconds_per_batch_interval"], digits=1) for row in rows],
        f"times {first['contender']}'s": ratio_column("ratio_to_first", rows),
        **cost_columns(rows),
    }
    where = f"on {first['device']}, {first['threads']} threads or processes each"
    title = f"{first['policy']}, {first['batch_size']} images at {first['resolution']} px {where}"
    print_table(title, columns, rows)
