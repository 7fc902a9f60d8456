"""Medians and how sure they are: 95 % bootstrap intervals, which assume nothing about how speeds are distributed.

Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, the percentile interval. Of five
values or fewer, the interval of the median reaches from the lowest to the highest one.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Estimate", "Interval", "bootstrap_interval", "median", "median_ratio"]

Interval = tuple[float, float]

_NUM_SAMPLES = 2000
_TAIL = 0.025


class Estimate(NamedTuple):
    """A figure, and where it may lie."""

    value: float
    interval: Interval


def bootstrap_interval(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float] = statistics.median
) -> Interval:
    """The interval that has a statistic of what the values are a sample of, with a confidence of 95 %.

    Args:
        values: At least one.
        statistic: Of that.

    Returns:
        Its ends, the same ones for the same values.

    Examples:
        >>> from benchmarks.intervals import bootstrap_interval
        >>> bootstrap_interval([101.0, 99.0, 100.0])
        (99.0, 101.0)
    """
    draw = random.Random(0)
    found = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(_NUM_SAMPLES))
    last = len(found) - 1
    return found[round(_TAIL * last)], found[round((1 - _TAIL) * last)]


def median(values: Sequence[float]) -> Estimate:
    """The median of values, such as the speeds of all rounds."""
    return Estimate(statistics.median(values), bootstrap_interval(values))


def median_ratio(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """The median over the rounds of one contender's value as a share of another's in the same round.

    Examples:
        >>> from benchmarks.intervals import median_ratio
        >>> median_ratio([2.0, 6.0, 4.0], [1.0, 2.0, 2.0])
        Estimate(value=2.0, interval=(2.0, 3.0))
    """
    return median([mine / theirs for mine, theirs in zip(values, others, strict=True)])
