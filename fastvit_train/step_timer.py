"""What training steps take, by the clock of the device, with the first steps of each kind kept apart."""

from collections import Counter
from typing import NamedTuple

from fastvit_train.device_clock import DeviceClock
from fastvit_train.run import Progress, Run

__all__ = ["FIRST_STEPS", "Interval", "Rates", "StepTimer", "rates"]

FIRST_STEPS = 3
"""Steps of each shape that say nothing about speed: they compile, choose kernels, capture graphs and get memory."""


class StepTimer:
    """Adds to a run's progress what its steps take.

    It waits for the device where it starts and stops, and between the first steps of a shape and those after them;
    between these moments the host may run ahead.
    """

    def __init__(self, clock: DeviceClock) -> None:
        self.clock = clock
        self._num_steps: Counter[tuple[float, ...]] = Counter()
        """Of each shape, in this process."""
        self._is_running = False

    def start(self, progress: Progress, *, flops_per_image: float) -> None:
        """Time what follows, steps that take so many operations for each image."""
        self._progress = progress
        self._flops_per_image = flops_per_image
        self._is_first: bool | None = None  # not known before there is a batch
        self._is_running = True
        self._mark()

    def begin_step(self, *shape: float) -> None:
        """A step begins; `shape` is what code is compiled for."""
        self._num_steps[shape] += 1
        is_first = self._num_steps[shape] <= FIRST_STEPS
        if self._is_first not in (None, is_first):
            self._add()
        self._is_first = is_first

    def stop(self) -> None:
        """Wait for the device, and add the time of the steps to the progress; nothing when stopped already."""
        if self._is_running:
            self._add()
            self._is_running = False

    def _add(self) -> None:
        seconds, num_images, waited = self._seconds, self._num_images, self._waited
        self._mark()
        progress = self._progress
        progress.train_seconds += self._seconds - seconds
        if not self._is_first:
            progress.steady_seconds += self._seconds - seconds
            progress.steady_images += self._num_images - num_images
            progress.steady_flops += (self._num_images - num_images) * self._flops_per_image
            progress.wait_seconds += self._waited - waited

    def _mark(self) -> None:
        self._seconds = self.clock.now()
        self._waited = self.clock.waited()
        self._num_images = self._progress.num_images


class Rates(NamedTuple):
    """Figures of steady steps; None where there were none."""

    images_per_second: float | None
    data_wait_fraction: float | None
    """Share of the time in which the device had nothing to do because the next batch was not there."""
    model_flops_per_second: float | None
    """Operations of the model's matmuls and convolutions, over all devices."""
    model_flops_utilization: float | None
    """The same as a share of what the devices could do; None where no table says what that is."""


class Interval:
    """What has happened since its construction: for the figures of one log line."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._start = _Steady.of(run)

    def rates(self) -> Rates:
        """The rates of the steady steps since then."""
        now = _Steady.of(self._run)
        since = _Steady(*(later - earlier for later, earlier in zip(now, self._start, strict=True)))
        return since.rates(self._run.peak_flops_per_second)


def rates(run: Run) -> Rates:
    """The rates of all steady steps of a run."""
    return _Steady.of(run).rates(run.peak_flops_per_second)


class _Steady(NamedTuple):
    """Sums over steady steps."""

    seconds: float
    num_images: float
    waited: float
    flops: float

    @classmethod
    def of(cls, run: Run) -> "_Steady":
        progress = run.progress
        return cls(progress.steady_seconds, progress.steady_images, progress.wait_seconds, progress.steady_flops)

    def rates(self, peak_flops_per_second: float | None) -> Rates:
        if not self.num_images:
            return Rates(None, None, None, None)
        flops = self.flops / self.seconds
        utilization = None if peak_flops_per_second is None else flops / peak_flops_per_second
        return Rates(self.num_images / self.seconds, self.waited / self.seconds, flops, utilization)
