"""Intervals hold the true median as often as they say; ratios are taken within rounds."""

import random
import statistics

import pytest

from benchmarks.intervals import bootstrap_interval, median, median_ratio


def test_the_interval_of_a_few_rounds_is_from_the_lowest_to_the_highest():
    assert bootstrap_interval([104.0, 98.0, 101.0, 99.0, 103.0]) == (98, 104)
    assert bootstrap_interval([7.0]) == (7, 7)


def test_intervals_hold_the_median_of_what_was_sampled():
    draw = random.Random(1)
    values = [[draw.lognormvariate(0, 0.3) for _ in range(15)] for _ in range(60)]
    held = sum(low <= 1 <= high for low, high in map(bootstrap_interval, values))
    assert held >= 53  # of 60, where 95 % are 57 and fewer than 53 are rarer than 1 in 100


def test_many_rounds_narrow_the_interval_down():
    draw = random.Random(1)
    values = [draw.gauss(100, 5) for _ in range(200)]
    low, high = bootstrap_interval(values)
    assert low < statistics.median(values) < high
    assert 0.5 < high - low < 4  # a median's standard error is 5 * 1.25 / sqrt(200): 0.44


def test_the_same_values_have_the_same_interval():
    values = [random.Random(2).random() for _ in range(20)]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_any_statistic():
    low, high = bootstrap_interval([1.0, 2.0, 9.0], statistics.fmean)
    assert (low, high) == (1, 9)
    assert bootstrap_interval([1.0, 1.0, 4.0], statistics.fmean) == (1, 4)


def test_medians_come_with_their_interval():
    assert median([3.0, 1.0, 2.0]) == (2, (1, 3))


def test_ratios_are_taken_within_a_round():
    """A machine that is twice as slow in one round is so for both."""
    assert median_ratio([10.0, 5.0, 20.0], [2.0, 1.0, 4.0]) == (5, (5, 5))
    with pytest.raises(ValueError, match="shorter"):
        median_ratio([1.0, 2.0], [1.0])
