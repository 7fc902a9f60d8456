"""What the loader then does: the truth that a prediction is compared with."""

import time
from itertools import count

from benchmarks.doctor.decoding import Variant
from loaders import build_loader

__all__ = ["measure_loader"]


def measure_loader(variant: Variant, *, warm_seconds: float, seconds: float) -> float:
    """Images per second of the loader over all the data, epoch after epoch.

    Args:
        variant: The data and how to load them.
        warm_seconds: The first epoch does not count, or so many seconds of it where it is longer.
        seconds: How long to measure at least: to the end of the epoch if it does not take three times as long.
    """
    loader = build_loader(variant.backend, variant.path, variant.config)
    try:
        end_of_warm_up = time.perf_counter() + warm_seconds
        loader.set_epoch(0)
        for _ in loader:
            if time.perf_counter() > end_of_warm_up:
                break
        start, num_images = time.perf_counter(), 0
        for number in count(1):
            loader.set_epoch(number)
            for batch in loader:
                num_images += len(batch.labels)
                if (passed := time.perf_counter() - start) >= 3 * seconds:
                    return num_images / passed
            if (passed := time.perf_counter() - start) >= seconds:
                return num_images / passed
        raise AssertionError("count() does not end")
    finally:
        loader.close()
