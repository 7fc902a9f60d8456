"""How fast loaders make batches of a sample that lies in memory: many variants in turns, a part of a second each."""

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from loaders import ImageLoader, LoaderConfig, build_loader

__all__ = ["Variant", "measure_variants"]


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
        turn_seconds: How long a turn is at least. Before it the loader makes an epoch that does not count.
        deadline: On `time.monotonic`'s clock: no round begins later but for the first.
    """
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(num_rounds):
        if number and time.monotonic() > deadline:
            break
        for name, variant in variants.items():
            speeds[name].append(_speed(variant, turn_seconds))
    return speeds


def _speed(variant: Variant, seconds: float) -> float:
    # A sample that cannot be decoded is no reason to end: the run itself says by name which one that is.
    loader = build_loader(variant.backend, variant.path, replace(variant.config, on_error="skip"))
    try:
        _epoch(loader, 0)
        start, num_images = time.perf_counter(), 0
        for number in count(1):
            num_images += _epoch(loader, number)
            if (passed := time.perf_counter() - start) >= seconds:
                return num_images / passed
        raise AssertionError("count() does not end")
    finally:
        loader.close()


def _epoch(loader: ImageLoader, number: int) -> int:
    loader.set_epoch(number)
    return sum(len(batch.labels) for batch in loader)
