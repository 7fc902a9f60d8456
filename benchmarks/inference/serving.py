"""What is measured of a model: batches that it classifies, one after the other, in a process of its own."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.inference.models import Source
from fastvit_train.compilation import compile_models
from fastvit_train.config import CompileMode, Config
from fastvit_train.device import forget_peak_rss, keep_freed_memory
from fastvit_train.device_clock import device_clock
from fastvit_train.restore import on_device
from loaders.errors import FastvitError

__all__ = ["Case", "Measured", "Mode", "Precision", "Serving", "measure"]

Precision = Literal["fp32", "bf16"]
Mode = Literal["eager", "compiled"]

# A graph of a batch of one is queued at once, where its kernels one by one keep the host busy for longer than the card.
_COMPILE_MODES: dict[str, CompileMode] = {"cpu": "default", "cuda": "reduce-overhead"}
# After the first call: such a graph is recorded in the second call, and cuDNN has chosen its kernels by then.
_LEAST_WARM_UP_CALLS = {"cpu": 1, "cuda": 3}


class Case(NamedTuple):
    """How a model classifies."""

    batch_size: int
    precision: Precision
    mode: Mode

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.precision}, {self.mode}, {self.batch_size} at once"


class Serving:
    """A model on its device with a batch of noise in front of it.

    Args:
        source: The model.
        case: How it classifies.
        device: Where.
        threads: Of torch.
        seconds: Of a round.
    """

    def __init__(self, source: Source, case: Case, *, device: torch.device, threads: int, seconds: float) -> None:
        torch.set_num_threads(threads)
        if device.type == "cpu":
            keep_freed_memory()
        model, config, _ = source.build()
        compile_mode = _COMPILE_MODES[device.type] if case.mode == "compiled" else "off"
        # Not the run's config, of whose training options some go with one precision alone.
        computing = Config(precision=case.precision, compile=compile_mode)
        dtype = on_device(model, computing, device).dtype
        # Not autocast, as in training: that casts the weights again for each batch.
        self.model = model.to(dtype)
        side = config.data.resolution
        noise = torch.randn(case.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0))
        self._images = noise.to(device, dtype, memory_format=torch.channels_last)
        compile_models(computing, device, self.model)
        self._case, self._device, self._seconds = case, device, seconds
        self._clock = device_clock(device)
        self.compile_seconds: float | None = None
        self.latencies: list[float] = []
        """Seconds of each call so far that counts: from the images on the device to logits that are there."""

    def warm_up(self) -> int:
        """Call the model until it is as fast as it will be; what this takes is not measured, but for compiling."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)  # float32 weights were there before those in bf16
        first = self._call()
        if self._case.mode == "compiled":
            self.compile_seconds = first
        seconds = [self._call() for _ in range(_LEAST_WARM_UP_CALLS[self._device.type])]
        while sum(seconds) < self._seconds:
            seconds.append(self._call())
        self._num_calls = max(1, math.ceil(self._seconds / min(seconds)))
        if self._device.type == "cpu":
            forget_peak_rss()  # the compiler's memory is no part of what a server needs
        return self._case.batch_size * (1 + len(seconds))

    def round(self) -> int:
        """Classify batches, each of which is waited for; returns how many images that were."""
        self.latencies += [self._call() for _ in range(self._num_calls)]
        return self._num_calls * self._case.batch_size

    def measured(self) -> "Measured":
        """What the turns do not say."""
        return Measured(self.latencies, self.compile_seconds)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """What the model makes of the noise."""
        logits: Tensor = self.model(self._images)
        return logits

    def _call(self) -> float:
        start = self._clock.now()
        try:
            self.logits()
        except torch.OutOfMemoryError as error:
            raise FastvitError(
                f"{self._case.batch_size} images at once need more memory than the GPU has; give smaller --batch-sizes"
            ) from error
        return self._clock.now() - start


class Measured(NamedTuple):
    """What is known of a case besides its turns."""

    latencies: list[float]
    compile_seconds: float | None
    """Of the first call of a compiled model."""


def measure(contenders: Mapping[str, Contender[Serving]], *, rounds: int) -> dict[str, tuple[list[Turn], Measured]]:
    """Have the cases take turns, after a warm-up; by name, its turns and the rest."""
    for contender in contenders.values():  # one after the other: the seconds of compiling are those of a quiet machine
        contender.run(Serving.warm_up)
    turns = take_turns(contenders, rounds, lambda name, _: contenders[name].run(Serving.round))
    return {name: (turns[name], contender.ask(Serving.measured)) for name, contender in contenders.items()}
