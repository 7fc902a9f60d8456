"""Batches on their way to the device, one ahead of the step."""

import functools
from collections.abc import Iterator

import torch

from fastvit_train.device_clock import DeviceClock, device_clock
from loaders import Batch, ImageLoader

__all__ = ["Prefetcher"]


class Prefetcher:
    """Iterates a loader's epoch with every batch on `device`; on CUDA the copy runs on its own stream.

    Args:
        loader: At the epoch that is wanted.
        device: Where the batches go.
        clock: It is told when the device may have to wait for a batch; one of the prefetcher's own when not given.
    """

    def __init__(self, loader: ImageLoader, device: torch.device, clock: DeviceClock | None = None) -> None:
        self._loader = loader
        self._device = device
        self._clock = device_clock(device) if clock is None else clock

    def __iter__(self) -> Iterator[Batch]:
        return self._copied_ahead() if self._device.type == "cuda" else self._as_they_come()

    def _as_they_come(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while True:
            self._clock.wait_begins()
            batch = next(batches, None)
            self._clock.wait_ends()
            if batch is None:
                return
            yield batch

    def _copied_ahead(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        copies = _copy_stream(self._device)
        while True:
            self._clock.wait_begins()
            copies.synchronize()  # the loader may reuse a batch's memory once the next one is asked for
            batch = next(batches, None)
            step = torch.cuda.current_stream(self._device)
            if batch is not None:
                with torch.cuda.stream(copies):
                    batch = Batch(*(tensor.to(self._device, non_blocking=True) for tensor in batch))
                step.wait_stream(copies)
            self._clock.wait_ends()
            if batch is None:
                return
            for tensor in batch:
                tensor.record_stream(step)
            yield batch


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies to the device, always the same: memory that was freed is kept for its stream alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
