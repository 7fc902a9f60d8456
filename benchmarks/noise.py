"""How quiet the machine was while something was measured: what else took its CPUs, and how much the rounds differ."""

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.harness import cpu_seconds
from benchmarks.row_files import Row

__all__ = ["NoiseWatch"]

# What a benchmark should not have more of. 5 % of others' work is what a desktop's own services take.
_MOST_SPREAD = 0.1
_MOST_STEAL = 0.01
_MOST_OF_OTHERS = 0.05
_THROTTLE_COUNTERS = "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counters:
    """Seconds since the start, of all the CPUs that this process may use."""

    total: float
    busy: float
    stolen: float
    ours: float
    throttled: int | None
    """How often, since the start, a CPU was slowed down because of its heat; None where the kernel does not tell."""


class NoiseWatch:
    """Watches the machine, from entering the context to leaving it, for what disturbs a measurement.

    Args:
        root: Where `proc` and `sys` are.

    Examples:
        >>> from benchmarks.noise import NoiseWatch
        >>> with NoiseWatch() as watch:
        ...     rounds = {"native": [7420.0, 7510.0, 7390.0]}
        >>> sorted(watch.noise(rounds))
        ['others_cpu_fraction', 'spread', 'steal_fraction', 'throttled', 'warnings']
    """

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root

    def __enter__(self) -> Self:
        self._before = self._after = self._counters()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = self._counters()

    def noise(self, rounds: Mapping[str, Sequence[float]]) -> Row:
        """The part of a row that says how far to trust it.

        Args:
            rounds: What each contender reached in each round, by name.

        Returns:
            `spread` is the largest interquartile range of a contender's rounds as a share of their median;
            `steal_fraction` and `others_cpu_fraction` are shares of the time of all CPUs that this process may use,
            which the host took for other machines, and which other processes took; `throttled` says whether a CPU was
            slowed down because of its heat, None where the kernel does not tell; `warnings` are sentences.
        """
        before, after = self._before, self._after
        total = max(after.total - before.total, 1e-9)
        busy, ours = after.busy - before.busy, after.ours - before.ours
        spreads = {name: _spread(values) for name, values in rounds.items()}
        widest = max(spreads, key=spreads.__getitem__)
        steal, others = (after.stolen - before.stolen) / total, max(0.0, busy - ours) / total
        throttled = None if after.throttled is None else after.throttled != before.throttled
        return {
            "spread": spreads[widest],
            "steal_fraction": steal,
            "others_cpu_fraction": others,
            "throttled": throttled,
            "warnings": list(_warnings(widest, spreads[widest], steal=steal, others=others, throttled=throttled)),
        }

    def _counters(self) -> _Counters:
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in (self._root / "proc/stat").read_text().splitlines()]
        ticks = [[int(count) for count in counts[:8]] for name, *counts in lines if name in allowed]
        seconds = [sum(column) / os.sysconf("SC_CLK_TCK") for column in zip(*ticks, strict=True)]
        user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen = seconds
        busy = user + nice + system + interrupts + soft_interrupts
        counts = [int(path.read_text()) for path in self._root.glob(_THROTTLE_COUNTERS)]
        return _Counters(
            total=busy + stolen + idle + waiting,
            busy=busy,
            stolen=stolen,
            ours=cpu_seconds(),
            throttled=sum(counts) if counts else None,
        )


def _spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median."""
    if len(values) < 2:
        return 0.0
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / median


def _warnings(widest: str, spread: float, *, steal: float, others: float, throttled: bool | None) -> Iterable[str]:
    if spread > _MOST_SPREAD:
        yield f"The rounds of {widest} differ by {spread:.0%} (interquartile range): take more or longer rounds."
    if steal > _MOST_STEAL:
        yield f"The host gave {steal:.0%} of the CPUs' time to other machines (steal): measure at a quieter time."
    if others > _MOST_OF_OTHERS:
        yield f"Other processes took {others:.0%} of the CPUs' time: stop them and measure again."
    if throttled:
        yield "A CPU was slowed down because of its heat: cool it and measure again."
