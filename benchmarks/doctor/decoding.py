"""How fast loaders make batches of a sample that lies in memory: many variants in turns, a part of a second each."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch

from loaders import ImageLoader, LoaderConfig, build_loader

__all__ = ["Variant", "measure_variants"]


_WARM = 2
"""So many turns a new loader works before its turn: its first batches go into new memory, which takes time."""
_LONG = 4
"""An epoch that takes so many turns is long enough for its beginning not to count, and is not made twice."""


class Variant(NamedTuple):
    """A way to load the sample."""

    path: Path
    config: LoaderConfig
    backend: str = "native"


def measure_variants(
    variants: Mapping[str, Variant], *, num_rounds: int, turn_seconds: float, deadline: float
) -> dict[str, list[float]]:
    """Images per second of each variant in each round, in which all have their turn.

    Args:
        variants: By name.
        num_rounds: How many turns each has, if there is time.
        turn_seconds: How long a turn is at least. Before it the loader works twice as long, which does not count.
        deadline: On `time.monotonic`'s clock: no round begins later but for the first.
    """
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    with ExitStack() as stack:
        loaders = {name: stack.enter_context(closing(_Loader(variant))) for name, variant in variants.items()}
        for number in range(num_rounds):
            if number and time.monotonic() > deadline:
                break
            for name, loader in loaders.items():
                speeds[name].append(loader.speed(turn_seconds))
    return speeds


class _Loader:
    """A variant's loader, which is closed between its turns, as its memory would be too much of many loaders."""

    def __init__(self, variant: Variant) -> None:
        # A sample that cannot be decoded is no reason to end: the run itself says by name which one that is.
        self._variant = variant._replace(config=replace(variant.config, on_error="skip"))
        self._loader: ImageLoader | None = None
        self._stays_open = False

    def speed(self, seconds: float) -> float:
        if self._loader is None:
            start = time.perf_counter()
            self._loader = build_loader(self._variant.backend, self._variant.path, self._variant.config)
            self._stays_open = time.perf_counter() - start > seconds  # as `resident`, which decodes all that there is
        speed = _speed(self._loader, seconds)
        if not self._stays_open:
            self.close()
        return speed

    def close(self) -> None:
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.close()


def _speed(loader: ImageLoader, seconds: float) -> float:
    numbers = count()
    warm, passed = _epochs(loader, numbers, _WARM * seconds)
    return warm if passed >= _LONG * seconds > 0 else _epochs(loader, numbers, seconds)[0]


def _epochs(loader: ImageLoader, numbers: Iterator[int], seconds: float) -> tuple[float, float]:
    """Make epochs until the time has passed: images per second, and the time."""
    start, num_images = time.perf_counter(), 0
    for number in numbers:
        num_images += _epoch(loader, number)
        if (passed := time.perf_counter() - start) >= seconds:
            return num_images / passed, passed
    raise AssertionError("count() does not end")


def _epoch(loader: ImageLoader, number: int) -> int:
    loader.set_epoch(number)
    num_images = sum(len(batch.labels) for batch in loader)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()  # a GPU may still be at the last batches
    return num_images
