"""The rates of this machine, from some seconds of each part of a run."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.harness import say, seconds_since_start
from benchmarks.peers.our_training import Loading, Training, on_noise
from benchmarks.plan.job import first_epochs
from benchmarks.plan.rates import PhaseRates, Rates
from fastvit_train.config import Config
from fastvit_train.data import build_loaders
from fastvit_train.device import device_name
from fastvit_train.evaluate import evaluate
from fastvit_train.report import draw_run
from fastvit_train.run import Run, save_best, save_checkpoint
from fastvit_train.run_folder import BEST, CHECKPOINT
from fastvit_train.schedule import Phase
from fastvit_train.step_timer import FIRST_STEPS
from loaders import Batch, ImageLoader
from loaders.cpus import usable_cpus

__all__ = ["measure_rates"]

_SECONDS = 3.0
"""That each figure is measured for, at least."""


def measure_rates(config: Config, folder: Path) -> Rates:
    """Take some steps of each phase, load, evaluate and write a checkpoint.

    Args:
        config: The run, with the number of images that a step of this machine has.
        folder: For files that may go.
    """
    rest_seconds, phases, extra = [seconds_since_start()], dict[Phase, PhaseRates](), list[float]()
    for phase, epoch in first_epochs(config).items():
        say(f"measuring steps at {phase.resolution} px")
        before = time.perf_counter()
        training = Training(on_noise(config), folder, epoch=epoch)
        training.start()
        if not phases:
            rest_seconds.append(time.perf_counter() - before)
        first = _seconds(partial(training.steps, FIRST_STEPS))
        step = _seconds_each(training.steps)
        extra.append(max(0.0, first - FIRST_STEPS * step))
        loading = Loading(config, folder, epoch=epoch)
        loading.start()
        batch = _seconds_each(loading.steps)
        phases[phase] = PhaseRates(config.batch_size / step, config.batch_size / batch / usable_cpus())
    say("measuring evaluation and checkpoints")
    run = training.run
    before = time.perf_counter()
    _, loader, _ = build_loaders(config, run.world)
    rest_seconds.append(time.perf_counter() - before)
    rest_seconds.append(_seconds(partial(draw_run, run.folder)))
    return Rates(
        source=f"measured on {device_name(run.world.device)}",
        phases=phases,
        evaluation_images_per_second=_evaluation_rate(run, loader),
        rest_seconds=sum(rest_seconds),
        first_steps_seconds=sum(extra) / len(extra),
        disk_bytes_per_second=_disk_rate(run),
        on_cpu=run.world.device.type == "cpu",
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _seconds_each(work: Callable[[int], object]) -> float:
    """What one of many takes: after a first one, as many as fill the time."""
    number = max(2, math.ceil(_SECONDS / max(1e-3, _seconds(partial(work, 1)))))
    return _seconds(partial(work, number)) / number


class _Some:
    """The first batches of a loader."""

    def __init__(self, loader: ImageLoader, num_batches: int) -> None:
        self._loader, self._num_batches = loader, num_batches
        self.skipped = loader.skipped
        self.num_images = 0

    def set_epoch(self, epoch: int, *, skip_batches: int = 0, resolution: int | None = None) -> None:
        self._loader.set_epoch(epoch, skip_batches=skip_batches, resolution=resolution)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        self.num_images = 0
        for batch in islice(self._loader, self._num_batches):
            self.num_images += len(batch.labels)
            yield batch

    def close(self) -> None:
        self._loader.close()


def _evaluation_rate(run: Run, loader: ImageLoader) -> float:
    """Images per second of an evaluation, its loader included, which is closed."""

    def evaluated(num_batches: int) -> float:
        some = _Some(loader, num_batches)
        seconds = _seconds(
            lambda: evaluate(
                run.evaluated_model, some, run.config, world=run.world, dtype=run.dtype, autocast=run.autocast()
            )
        )
        return some.num_images / seconds

    evaluated(1)  # compiles
    rate = evaluated(1)
    num_batches = min(len(loader), math.ceil(_SECONDS * rate / run.config.batch_size))
    if num_batches > 1:
        rate = evaluated(num_batches)
    loader.close()
    return rate


def _disk_rate(run: Run) -> float:
    """Bytes per second at which a run writes its checkpoints."""
    run.folder.mkdir(parents=True, exist_ok=True)
    seconds = _seconds(partial(save_checkpoint, run)) + _seconds(partial(save_best, run))
    return sum((run.folder / name).stat().st_size for name in (CHECKPOINT, BEST)) / seconds
