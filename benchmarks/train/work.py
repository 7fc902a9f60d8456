"""Training in steps that are measured: what a contender does, and how its turns are taken."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from benchmarks.harness import Contender, Turn, take_turns

__all__ = ["Work", "measure"]

_LEAST_STEPS, _ROUND_SECONDS = 4, 1.0


class Work(Protocol):
    """What a contender does."""

    def start(self) -> int:
        """What is not measured before each round; returns a number of images, as all work does."""

    def steps(self, number: int) -> int:
        """So many steps."""


def _start(work: Work) -> int:
    return work.start()


def _steps(work: Work, number: int) -> int:
    return work.steps(number)


def _turn(contender: Contender[Work], num_steps: int) -> Turn:
    contender.run(_start)
    return contender.run(partial(_steps, number=num_steps))


def measure(contenders: Mapping[str, Contender[Work]], *, rounds: int, steps: int | None) -> dict[str, list[Turn]]:
    """Have the contenders take turns, after a warm-up.

    Args:
        contenders: By name.
        rounds: How many turns each has.
        steps: Of a turn; when None, enough for a second, and at least 4. The loader alone always takes so many: when
            a turn begins, it has a few batches ready.
    """
    num_steps = {
        name: _warm_up(contender, None if name == "loader" else steps) for name, contender in contenders.items()
    }
    return take_turns(contenders, rounds, lambda name, _: _turn(contenders[name], num_steps[name]))


def _warm_up(contender: Contender[Work], num_steps: int | None) -> int:
    """Take steps that are not measured; returns how many a round is to have."""
    _turn(contender, num_steps or _LEAST_STEPS)
    if num_steps is not None:
        return num_steps
    return max(_LEAST_STEPS, math.ceil(_LEAST_STEPS * _ROUND_SECONDS / _turn(contender, _LEAST_STEPS).seconds))
