"""Batches on their way to the device, one ahead of the step, with the time that training waits for them."""

import time
from collections.abc import Iterator

import torch

from loaders import Batch, ImageLoader

__all__ = ["Prefetcher"]


class Prefetcher:
    """Iterates a loader's epoch with every batch on `device`; on CUDA the copy runs on its own stream."""

    def __init__(self, loader: ImageLoader, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self.wait_seconds = 0.0
        """Seconds spent waiting for the loader, since construction."""

    def __iter__(self) -> Iterator[Batch]:
        return self._copied_ahead() if self._device.type == "cuda" else self._as_they_come()

    def _as_they_come(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while (batch := self._next(batches)) is not None:
            yield batch

    def _copied_ahead(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        copied = self._copy_next(batches, copies)
        while copied is not None:
            step = torch.cuda.current_stream(self._device)
            step.wait_stream(copies)
            for tensor in copied:
                tensor.record_stream(step)
            yield copied
            copies.synchronize()  # the loader may reuse a batch's memory once the next one is asked for
            copied = self._copy_next(batches, copies)

    def _copy_next(self, batches: Iterator[Batch], stream: torch.cuda.Stream) -> Batch | None:
        batch = self._next(batches)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return Batch(*(tensor.to(self._device, non_blocking=True) for tensor in batch))

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        start = time.perf_counter()
        batch = next(batches, None)
        self.wait_seconds += time.perf_counter() - start
        return batch
