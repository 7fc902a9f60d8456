"""The width of a decoder's calls: measured, then kept."""

import numpy as np
import pytest

from loaders.call_width import CallWidth


def widths_of(call: CallWidth, cost, number: int) -> list[int]:
    """The widths of the next batches, where an image costs so many seconds."""
    widths = []
    for _ in range(number):
        widths.append(call.width)
        call.took(cost(call.width))
    return widths


@pytest.mark.parametrize(
    ("cost", "best"),
    [
        (lambda width: 1 / width + width / 64**2, 64),  # a call has its price, and too wide ones have theirs
        (lambda width: 1 / width, 256),
        (lambda width: width, 32),
        (lambda width: 1.0, 32),
    ],
)
def test_the_fastest_width_is_kept(cost, best):
    call = CallWidth(256)
    assert widths_of(call, cost, 16) == [32, 64, 128, 256] * 4, "in turn, or what slows everything down decides"
    assert widths_of(call, lambda width: np.nan, 5) == [best] * 5


def test_the_first_time_and_a_single_slow_one_do_not_count():
    call = CallWidth(128)
    seconds = iter([9, 2, 2, 1, 2, 2, 9, 2, 2, 1, 2, 2])  # three widths in turn, the first one is the fastest
    assert widths_of(call, lambda width: next(seconds), 12)[:3] == [32, 64, 128]
    assert call.width == 32


@pytest.mark.parametrize(("batch_size", "widths"), [(1, [1]), (32, [32]), (33, [32, 33]), (100, [32, 64, 100])])
def test_no_width_is_above_the_batch_size(batch_size, widths):
    call = CallWidth(batch_size)
    assert widths_of(call, lambda width: 1.0, len(widths)) == widths
