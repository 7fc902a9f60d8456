"""The contenders `train`, `step`, `loader` and `matmuls`: our trainer, whole and in parts."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch

from benchmarks.peers.matmuls import record_matmuls
from fastvit_train.config import Config, DataConfig
from fastvit_train.data import build_loaders
from fastvit_train.device import keep_freed_memory
from fastvit_train.device_clock import device_clock
from fastvit_train.distributed import start_world
from fastvit_train.metrics import Totals
from fastvit_train.models import set_patch_drop
from fastvit_train.models.plain_attention import use_plain_attention
from fastvit_train.prefetch import Prefetcher
from fastvit_train.run import start_run
from fastvit_train.schedule import phase_of
from fastvit_train.train import train_step
from loaders import Batch

__all__ = ["Loading", "Matmuls", "Training", "on_noise"]


def on_noise(config: Config) -> Config:
    """The same run on noise that is in memory."""
    data = config.data  # of whose options noise has no use for any that says how an image is made
    noise = DataConfig(
        backend="synthetic", train=data.train, val=data.val, resolution=data.resolution, order=data.order
    )
    return replace(config, data=noise)


class Training:
    """Our trainer, some steps at a time.

    Args:
        config: The run.
        folder: For the run's files.
        epoch: Whose steps they are.
        channels_last: Lay images and the weights of convolutions out as `fastvit-train` does; else channels first.
    """

    def __init__(self, config: Config, folder: Path, *, epoch: int, channels_last: bool = True) -> None:
        self._cleanup = ExitStack()
        world = self._cleanup.enter_context(start_world(config.device))
        if world.device.type == "cpu":
            keep_freed_memory()
        self._loader, _, num_classes = build_loaders(config, world)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.run = start_run(config, world, folder, self._loader, num_classes, memory_format=memory_format)
        if not channels_last:
            self.run.model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        self.run.model.train()
        self.run.progress.epoch = epoch
        self._phase = phase_of(config, epoch)
        set_patch_drop(self.run.model, self._phase.patch_drop)
        self.clock = device_clock(world.device)

    def start(self) -> int:
        """Have the loader make its first batches, one of which is dropped."""
        self._batches = self._endless_batches()
        return len(next(self._batches).labels)

    def steps(self, number: int) -> int:
        """Train for so many steps and wait for the device; returns how many images that were."""
        num_images = self.queue_steps(number)
        self.clock.now()
        return num_images

    def queue_steps(self, number: int) -> int:
        """Train for so many steps; a CUDA device may still be at them when this returns."""
        run, totals, num_images = self.run, Totals(self.run.world.device), 0
        for images, labels, index in islice(self._batches, number):
            train_step(run, images, labels, index, totals)
            run.progress.step = min(run.progress.step + 1, run.last_step - 1)  # the schedule has no rates after its end
            num_images += len(labels)
        return num_images

    def load_with(self, data: DataConfig) -> None:
        """Load the same images in another way from the next `start` on."""
        self._loader.close()
        self._loader, _, _ = build_loaders(replace(self.run.config, data=data), self.run.world)

    def _endless_batches(self) -> Iterator[Batch]:
        """The batches of the epoch, and of those after it in the same phase."""
        for epoch in count(self.run.progress.epoch):
            self._loader.set_epoch(epoch, resolution=self._phase.resolution)
            yield from Prefetcher(self._loader, self.run.world.device, self.clock)


class Loading(Training):
    """The loader alone."""

    def steps(self, number: int) -> int:
        """Take so many batches and wait until they are on the device; returns how many images that were."""
        num_images = sum(len(batch.labels) for batch in islice(self._batches, number))
        self.clock.now()
        return num_images


class Matmuls(Training):
    """The matmuls and convolutions of a training step, its optimizer's included, one after the other."""

    def __init__(self, config: Config, folder: Path, *, epoch: int, channels_last: bool = True) -> None:
        uncompiled = replace(on_noise(config), compile="off", cuda_graph="off")
        super().__init__(uncompiled, folder, epoch=epoch, channels_last=channels_last)
        use_plain_attention(self.run.model)
        self.start()
        super().steps(1)
        self._repeat = record_matmuls(partial(super().steps, 1))

    def steps(self, number: int) -> int:
        """Do the matmuls of so many steps."""
        for _ in range(number):
            self._repeat()
        if self.run.world.device.type == "cuda":
            torch.cuda.synchronize()
        return number * self.run.config.batch_size
