"""Runs of the presets on a pretended CUDA device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from fake_cuda.device import DEVICE
from fastvit_train import run as run_module
from fastvit_train.config import Config
from fastvit_train.distributed import World
from fastvit_train.presets import build_preset
from fastvit_train.run import Run, start_run
from fastvit_train.schedule import Phase, phase_of
from loaders import BadSample, Batch

WORLD = World(rank=0, world_size=1, device=DEVICE)
STEPS_PER_EPOCH = 50


class FakeLoader:
    """Batches that are on the device already.

    Args:
        batches: What it hands over.
        after_first: The context that lasts from the moment that the second batch is asked for to the end.
    """

    def __init__(self, *batches: Batch, after_first: AbstractContextManager[object] | None = None) -> None:
        self._batches = batches
        self._after_first = after_first or nullcontext()
        self.skipped: list[BadSample] = []
        self.is_done = False

    def set_epoch(self, epoch: int, **options: int | None) -> None: ...

    def __len__(self) -> int:
        return STEPS_PER_EPOCH

    def __iter__(self) -> Iterator[Batch]:
        first, *others = self._batches
        yield first
        with self._after_first:
            yield from others
        self.is_done = True

    def close(self) -> None: ...


def fake_batch(num_images: int, resolution: int) -> Batch:
    """A batch as a loader leaves it on the device."""
    images = torch.empty(num_images, resolution, resolution, 3, dtype=torch.uint8, device=DEVICE)
    labels, index = (torch.empty(num_images, dtype=torch.int64, device=DEVICE) for _ in range(2))
    return Batch(images.permute(0, 3, 1, 2), labels, index)


def preset_on(name: str, data_set: Path, **changes: Any) -> Config:
    """A preset for CUDA, whose data set is another one."""
    config = build_preset(name)
    data = replace(config.data, train=data_set, val=data_set)
    return replace(config, data=data, init_from=None, device="cuda", **changes)


def start_fake_run(config: Config, folder: Path, *, num_blocks: int | None = None) -> Run:
    """Start a run as `train` does, with at most `num_blocks` of the blocks that are alike, where that is given."""
    build = run_module.build_model

    def build_shallow(*args: Any, **options: Any) -> nn.Module:
        model = build(*args, **options)
        for name, module in model.named_children():
            if isinstance(module, nn.Sequential) and num_blocks is not None:
                setattr(model, name, module[:num_blocks])
        return model

    num_classes = 1000 if config.preset.startswith("imagenet") else 10
    loader = FakeLoader(fake_batch(config.batch_size, config.data.resolution))
    with mock.patch.object(run_module, "build_model", build_shallow):
        run = start_run(config, WORLD, folder, loader, num_classes)
    run.model.train()
    return run


def phases_in_order(config: Config) -> list[tuple[int, Phase]]:
    """The first epoch of each phase, with the phase."""
    firsts: dict[Phase, int] = {}
    for epoch in range(round(config.epochs)):
        firsts.setdefault(phase_of(config, epoch), epoch)
    return [(epoch, phase) for phase, epoch in firsts.items()]


def validation_batches(config: Config) -> list[Batch]:
    """Two whole batches of the validation set, and its last one, which is smaller."""
    num_images = 50_000 if config.preset.startswith("imagenet") else 10_000
    sizes = [config.batch_size, config.batch_size, num_images % config.batch_size or config.batch_size // 2]
    return [fake_batch(size, config.data.resolution) for size in sizes]
