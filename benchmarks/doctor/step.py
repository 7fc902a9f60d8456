"""How fast the training step takes images, and how fast they get to a GPU."""

import math
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import Contender
from benchmarks.peers.our_training import Training, on_noise
from fastvit_train.config import Config

__all__ = ["copy_bytes_per_second", "step_images_per_second"]

_FLOPS_OF_A_CPU_BATCH = 5e11
"""A second or two of a few cores: a larger batch would take longer and say the same."""
_COPY_BYTES = 1 << 26
_NUM_COPIES = 8


def step_images_per_second(
    config: Config, *, num_images: int, flops: float, num_threads: int, timeout_seconds: float
) -> float:
    """What a preset's step does with noise; on the CPU not compiled and in small batches.

    Args:
        config: The preset, on the user's data, which says how many classes there are.
        num_images: Of the data: a batch has no more.
        flops: Of an image.
        num_threads: Of torch.
        timeout_seconds: The process that measures is killed after that.

    Raises:
        TimeoutError: It took too long.
        RuntimeError: The step failed; the message says why.
    """
    end = time.monotonic() + timeout_seconds
    training = on_noise(config)
    if config.batch_size > num_images:
        training = replace(training, batch_size=num_images, accumulate=None)
    if not torch.cuda.is_available():
        size = max(2, min(training.batch_size, int(_FLOPS_OF_A_CPU_BATCH / flops)))
        training = replace(training, compile="off", device="cpu", batch_size=size, accumulate=None)
    with (
        tempfile.TemporaryDirectory() as folder,
        Contender("the step", partial(_prepare, training, Path(folder), num_threads)) as contender,
    ):
        contender.wait_until_ready(timeout_seconds=end - time.monotonic())
        first = contender.run(_one_step, timeout_seconds=end - time.monotonic())  # which compiles
        num_steps = max(1, math.floor(min(3.0, (end - time.monotonic()) / 3) / first.seconds))
        turn = contender.run(partial(_steps, number=num_steps), timeout_seconds=end - time.monotonic())
    return turn.num_images / turn.seconds


def _prepare(config: Config, folder: Path, num_threads: int) -> Training:
    torch.set_num_threads(num_threads)
    return Training(config, folder, epoch=max(0, int(config.epochs) - 1))


def _one_step(training: Training) -> int:
    training.start()
    return training.steps(1)


def _steps(training: Training, number: int) -> int:
    return training.steps(number)


def copy_bytes_per_second() -> float | None:
    """From pinned memory to the GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    pinned = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = pinned.to("cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_NUM_COPIES):
        there.copy_(pinned, non_blocking=True)
    torch.cuda.synchronize()
    return _NUM_COPIES * _COPY_BYTES / (time.perf_counter() - start)
