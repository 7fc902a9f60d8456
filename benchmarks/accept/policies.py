"""Stage `augmentation`: what each policy costs, a batch at a time."""

import statistics
import time
from collections.abc import Iterator
from typing import Literal

from benchmarks.accept.setting import Setting
from benchmarks.bench_augment import Augmenting, BenchAugment
from benchmarks.row_files import Row
from benchmarks.step_cost import device_cost

__all__ = ["augmentation", "prepare_augmentation"]

Policy = Literal["randaugment", "autoaugment", "trivial", "three"]
_POLICIES: tuple[Policy, ...] = ("randaugment", "autoaugment", "trivial", "three")


def prepare_augmentation(setting: Setting) -> Iterator[Row]:
    """Compile each policy."""
    for policy in _policies(setting):
        start = time.perf_counter()
        _augmenting(setting, policy).round()
        yield {"model": policy, "first_step_seconds": time.perf_counter() - start}


def augmentation(setting: Setting) -> Iterator[Row]:
    """A row per policy."""
    for policy in _policies(setting):
        augmenting = _augmenting(setting, policy)
        augmenting.round()
        rounds = []
        for _ in range(5 if setting.on_cuda else 1):
            start = time.perf_counter()
            augmenting.round()
            rounds.append(1e3 * (time.perf_counter() - start) / augmenting.config.batches)
        yield {
            "policy": policy,
            "batch_size": augmenting.config.batch_size,
            "resolution": augmenting.config.resolution,
            "milliseconds_per_batch": statistics.median(rounds),
            "rounds": rounds,
        }
        if setting.on_cuda:
            cost = device_cost(augmenting.round, num_steps=1)
            yield {
                "policy": policy,
                "device_milliseconds_per_batch": cost.busy_milliseconds / augmenting.config.batches,
                "kernels_per_batch": cost.num_kernels / augmenting.config.batches,
            }


def _policies(setting: Setting) -> tuple[Policy, ...]:
    return _POLICIES if setting.on_cuda else _POLICIES[:1]  # each takes a CPU tens of seconds to compile


def _augmenting(setting: Setting, policy: Policy) -> Augmenting:
    batch_size, resolution, batches = (256, 224, 8) if setting.on_cuda else (8, 32, 1)
    options = BenchAugment(
        policy=policy,
        device="cuda" if setting.on_cuda else "cpu",
        batch_size=batch_size,
        resolution=resolution,
        batches=batches,
    )
    return Augmenting("fastvit", options)
