"""How many images one call of a decoder gets: what takes the least time on this machine is measured, and kept."""

import statistics
from collections import deque

__all__ = ["CallWidth"]

_WIDTHS = (32, 64, 128)
_TRIALS = 4
"""Batches that each width is tried with. The first one does not count: it has memory to allocate."""


class CallWidth:
    """Tries some widths in turn, batch by batch, and then keeps the one with the smallest median.

    Args:
        batch_size: The largest width.

    Examples:
        >>> from loaders.call_width import CallWidth
        >>> call = CallWidth(batch_size=256)
        >>> tried = []
        >>> for _ in range(16):
        ...     tried.append(call.width)
        ...     call.took(1.0 if call.width == 64 else 2.0)
        >>> tried[:5], call.width
        ([32, 64, 128, 256, 32], 64)
    """

    def __init__(self, batch_size: int) -> None:
        widths = [width for width in _WIDTHS if width < batch_size] + [batch_size]
        self._seconds: dict[int, list[float]] = {width: [] for width in widths}
        self._trials = deque(widths * _TRIALS)

    @property
    def width(self) -> int:
        """Images that one call is to get."""
        return self._trials[0] if self._trials else min(self._seconds, key=self._median)

    def took(self, seconds: float) -> None:
        """What an image of a batch took with that width."""
        if self._trials:
            self._seconds[self._trials.popleft()].append(seconds)

    def _median(self, width: int) -> float:
        return statistics.median(self._seconds[width][1:])
