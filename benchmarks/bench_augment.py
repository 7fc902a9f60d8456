"""Augmentation side by side: ours on the device, torchvision's in worker processes, kornia's on the device."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.harness import Turn, counted_rounds, started
from benchmarks.rows import Row, about, appended_rows, cost_columns, median_ratio, print_table, split_names
from fastvit_train.augment import augment, normalize
from fastvit_train.config import AugmentConfig
from fastvit_train.device import keep_freed_memory


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
        for name in ("resolution", "threads", "batch_size", "rounds", "batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        _ = self.names

    @property
    def names(self) -> list[str]:
        """The contenders, in the order of their turns."""
        return split_names(self.contenders, CONTENDERS, kind="contender")

    @property
    def augment(self) -> AugmentConfig:
        """What fastvit is asked for."""
        return AugmentConfig(policy=self.policy, color_jitter=0.3 if self.policy == "three" else 0.0)


Batches = Callable[[int], Iterator[Tensor]]
"""Makes so many augmented batches, float32 [b, 3, h, w] on the device."""


def _fastvit(config: BenchAugment, images: Tensor) -> Batches:
    generator = torch.Generator(config.device).manual_seed(0)
    labels = torch.zeros(len(images), dtype=torch.int64, device=config.device)

    def batches(number: int) -> Iterator[Tensor]:
        for _ in range(number):
            yield augment(
                images.to(config.device),
                labels,
                config.augment,
                index=labels,
                epoch=0,
                num_classes=1,
                generator=generator,
                dtype=torch.float32,
                compiled=True,
            ).images

    return batches


class _Transformed(Dataset[Tensor]):
    """One image after another, transformed; without end."""

    def __init__(self, images: Tensor, transform: v2.Transform) -> None:
        self._images = images
        self._transform = transform

    def __getitem__(self, index: int) -> Tensor:
        transformed: Tensor = self._transform(self._images[index % len(self._images)])
        return transformed


def _torchvision(config: BenchAugment, images: Tensor, *, normalizes: bool) -> Batches:
    steps = _torchvision_steps(config.policy)
    ours = config.augment
    if normalizes:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(ours.mean), list(ours.std))]
    loader = DataLoader(
        _Transformed(images.contiguous(), v2.Compose(steps)),
        batch_size=config.batch_size,
        sampler=range(config.batches * config.batch_size),
        num_workers=config.threads,
        persistent_workers=True,
        pin_memory=config.device == "cuda",
    )

    def batches(number: int) -> Iterator[Tensor]:
        assert number == config.batches
        for batch in loader:
            moved = batch.to(config.device, non_blocking=True)
            yield moved if normalizes else normalize(moved, ours, torch.float32)

    return batches


def _torchvision_steps(policy: str) -> list[v2.Transform]:
    if policy == "randaugment":
        return [v2.RandAugment(num_ops=2, magnitude=9)]
    if policy == "autoaugment":
        return [v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)]
    if policy == "trivial":
        return [v2.TrivialAugmentWide()]
    one_of_three = [v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), v2.GaussianBlur(13, (0.1, 2.0))]
    return [v2.RandomChoice(one_of_three), v2.ColorJitter(0.3, 0.3, 0.3)]


def _kornia(config: BenchAugment, images: Tensor) -> Batches:
    try:
        from kornia.augmentation import auto
    except ImportError as error:
        raise ImportError(
            f"the contender kornia needs kornia ({error}); install it with: pip install kornia"
        ) from error
    if config.policy == "three":
        raise ValueError("kornia has no 3-Augment: leave it out of --contenders")
    policies = {
        "randaugment": partial(auto.RandAugment, n=2, m=9),
        "autoaugment": partial(auto.AutoAugment, "cifar10"),
        "trivial": auto.TrivialAugment,
    }
    policy = policies[config.policy]()
    moments = (config.augment.mean, config.augment.std)
    mean, std = (torch.tensor(values, device=config.device)[:, None, None] for values in moments)

    def batches(number: int) -> Iterator[Tensor]:
        for _ in range(number):
            yield (policy(images.to(config.device).float() / 255) - mean) / std

    return batches


CONTENDERS: dict[str, Callable[[BenchAugment, Tensor], Batches]] = {
    "fastvit": _fastvit,
    "torchvision": partial(_torchvision, normalizes=True),
    "torchvision-uint8": partial(_torchvision, normalizes=False),
    "kornia": _kornia,
}


class Augmenting:
    """One contender in the process of its own: the work that is measured."""

    def __init__(self, name: str, config: BenchAugment) -> None:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        torch.manual_seed(0)
        side = config.resolution
        pixels = torch.randint(256, (config.batch_size, side, side, 3), dtype=torch.uint8)
        self._config = config
        self._batches = CONTENDERS[name](config, pixels.permute(0, 3, 1, 2))

    def round(self) -> int:
        """Make a round's batches."""
        num_images = sum(len(batch) for batch in self._batches(self._config.batches))
        if self._config.device == "cuda":
            torch.cuda.synchronize()
        return num_images


def bench_augment(config: BenchAugment) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A contender failed.
    """
    with appended_rows(config.json) as rows, ExitStack() as stack:
        contenders = stack.enter_context(started({name: partial(Augmenting, name, config) for name in config.names}))
        for contender in contenders.values():
            contender.run(Augmenting.round)
        turns: dict[str, list[Turn]] = {name: [] for name in contenders}
        for _ in counted_rounds(config.rounds):
            for name, contender in contenders.items():
                turns[name].append(contender.run(Augmenting.round))
        origin, first = about(), turns[config.names[0]]
        rows += [_row(name, config, mine, first) | origin for name, mine in turns.items()]
    _print(rows)
    return rows


def _row(name: str, config: BenchAugment, mine: list[Turn], first: list[Turn]) -> Row:
    milliseconds = [1000 * turn.seconds / config.batches for turn in mine]
    return {
        "contender": name,
        "policy": config.policy,
        "resolution": config.resolution,
        "device": config.device,
        "threads": config.threads,
        "batch_size": config.batch_size,
        "milliseconds_per_batch": statistics.median(milliseconds),
        "rounds": milliseconds,
        "ratio_to_first": median_ratio(first, mine),  # of times
        "cpu_seconds_per_image": statistics.median(turn.cpu_seconds / turn.num_images for turn in mine),
        "peak_rss_bytes": mine[-1].peak_rss_bytes,
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "contender": [row["contender"] for row in rows],
        "ms/batch": [f"{row['milliseconds_per_batch']:,.1f}" for row in rows],
        "spread": [f"{min(row['rounds']):,.1f}-{max(row['rounds']):,.1f}" for row in rows],
        f"times {first['contender']}'s": [f"{row['ratio_to_first']:.2f}" for row in rows],
        **cost_columns(rows),
    }
    where = f"on {first['device']}, {first['threads']} threads or processes each"
    title = f"{first['policy']}, {first['batch_size']} images at {first['resolution']} px {where}"
    print_table(title, columns, first["machine"])
