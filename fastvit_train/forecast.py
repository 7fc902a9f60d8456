"""How long a run will take, told from its first steps."""

import math

from fastvit_train.run import Run
from fastvit_train.schedule import phase_of
from fastvit_train.step_timer import FIRST_STEPS

__all__ = ["Forecast"]

_TIMED_STEPS = 5


class Forecast:
    """Times a few steps of the run itself, then says how long the rest will take.

    They are steps that the run takes anyway: no time is lost, and no bit changes. A step of a phase that is still to
    come is taken to be slower by the floating-point operations of its images.

    Args:
        run: At the step from which it starts or resumes.
    """

    def __init__(self, run: Run) -> None:
        self._timed_from = run.progress.step + FIRST_STEPS
        self._timed_to = self._timed_from + _TIMED_STEPS
        self._seconds_before = 0.0

    def is_due(self, step: int) -> bool:
        """Whether `update` needs to know when the device is done with this step."""
        return step in (self._timed_from, self._timed_to)

    def update(self, run: Run) -> None:
        """Call it after each step, when its time has been added to the run's progress."""
        progress = run.progress
        if progress.step == self._timed_from:
            self._seconds_before = progress.train_seconds
        elif progress.step == self._timed_to < run.last_step:
            seconds = progress.train_seconds - self._seconds_before
            left = self._sum_costs(run, self._timed_to, run.last_step)
            done = self._sum_costs(run, self._timed_from, self._timed_to)
            images = _TIMED_STEPS * run.config.batch_size
            resolution = phase_of(run.config, progress.epoch).resolution
            run.metrics.say(
                f"forecast    {_duration(seconds * left / done)} more of training "
                f"(now {images / seconds:,.0f} images/s at {resolution} px)"
            )

    def _sum_costs(self, run: Run, start: int, stop: int) -> float:
        """The operations, for an image in each, of the steps from `start` to `stop`."""
        steps = run.steps_per_epoch
        return sum(
            run.flops_per_image[phase_of(run.config, epoch)]
            * (min(stop, (epoch + 1) * steps) - max(start, epoch * steps))
            for epoch in range(start // steps, math.ceil(stop / steps))
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} hours"
