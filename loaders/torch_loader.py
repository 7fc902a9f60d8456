"""The `torch` backend: whole images and torchvision's transforms in a DataLoader, the reference for all others."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from loaders import _native
from loaders._epochs import PlannedEpochs, bad_sample, epoch_ended, loader_closed
from loaders.config import LoaderConfig
from loaders.contract import BadSample, BadSampleError, Batch
from loaders.cpus import automatic_workers
from loaders.errors import FastvitError
from loaders.image_files import ImageError
from loaders.reads import PATIENCE_SECONDS, warn_of_stuck_reads
from loaders.records import ImageRecords, open_records

__all__ = ["TorchLoader"]

_SHARED_MEMORY = "/dev/shm"


class _Request(NamedTuple):
    """What a worker needs to make one batch, so that it needs no state itself."""

    samples: NDArray[np.int64]
    indices: NDArray[np.int64]
    epoch: int
    resolution: int


class _Batches(Dataset[tuple[Batch, list[BadSample]]]):
    """Whole batches by request; runs in the workers."""

    def __init__(self, records: ImageRecords, config: LoaderConfig, num_workers: int) -> None:
        self.records = records
        self.at = multiprocessing.RawArray("q", [-1] * max(1, num_workers))
        """The record that each worker is at; -1 where it is at none. The first one's is that of this process, without
        workers."""
        self._config = config

    def __getitem__(self, request: _Request) -> tuple[Batch, list[BadSample]]:
        images: list[Tensor] = []
        good: list[int] = []
        bad: list[BadSample] = []
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        for sample, index in zip(request.samples.tolist(), request.indices.tolist(), strict=True):
            self.at[number] = index
            try:
                images.append(self._sample(sample, index, request))
                good.append(index)
            except (OSError, RuntimeError, ImageError) as error:
                bad.append(bad_sample(self.records, index, error))
        self.at[number] = -1
        # In a worker, collating writes into memory that it shares with the main process: nothing is copied again.
        side = request.resolution
        pixels = default_collate(images) if images else torch.empty((0, side, side, 3), dtype=torch.uint8)
        indices = np.array(good, dtype=np.int64)
        batch = Batch(
            pixels.permute(0, 3, 1, 2), torch.from_numpy(self.records.labels[indices]), torch.from_numpy(indices)
        )
        if worker is not None:
            # torch would do it later, in a thread: where there is no memory for it, nobody would get the error.
            for part in batch:
                part.share_memory_()  # type: ignore[no-untyped-call]
        return batch, bad

    def _sample(self, sample: int, index: int, request: _Request) -> Tensor:
        """One image of the batch, uint8 [resolution, resolution, 3]; raises as `ImageRecords.decode` does."""
        config, side = self._config, request.resolution
        resize = partial(transforms.resize, interpolation=InterpolationMode(config.interpolation), antialias=True)
        image = self.records.decode(index, exif_orientation=config.exif_orientation)
        if config.crop == "center":
            resized = resize(image, [round(side / config.center_fraction)])
            return _channels_last(transforms.center_crop(resized, [side, side]))
        _, height, width = image.shape
        boxes, flips, shifts = config.crops(
            np.array([sample]), heights=np.array([height]), widths=np.array([width]), epoch=request.epoch
        )
        # Of a crop that is contiguous in channels_last, torch makes the same pixels in half the time.
        crop = _channels_last(transforms.crop(image, *boxes[0].tolist())).permute(2, 0, 1)
        resized = _channels_last(resize(crop, [side, side]))
        if flips[0]:
            resized = resized.flip(1)
        return _shift(resized, *shifts[0].tolist()) if shifts.any() else resized


def _shift(image: Tensor, down: int, right: int) -> Tensor:
    """A [h, w, 3] image moved by so many pixels, the border reflected."""
    height, width, _ = image.shape
    margin = max(abs(down), abs(right))
    padded = transforms.pad(image.permute(2, 0, 1), [margin], padding_mode="reflect")
    return _channels_last(transforms.crop(padded, margin - down, margin - right, height, width))


def _channels_last(image: Tensor) -> Tensor:
    """A [3, h, w] image as contiguous [h, w, 3]."""
    return image.permute(1, 2, 0).contiguous()


class TorchLoader(PlannedEpochs):
    """An `ImageLoader` over a `.beton` file, an ImageFolder or shards.

    Raises:
        FastvitError: The dataset is missing or damaged, or the config does not fit it.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.torch_loader import TorchLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> loader = TorchLoader(Path("photos"), config)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(5, 3, 64, 64), (5, 3, 64, 64)]
        >>> loader.close()
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        records = self._open(path)
        super().__init__(config, num_samples=len(records.labels))
        self._raise = config.on_error == "raise"
        num_workers = automatic_workers() if config.num_workers is None else config.num_workers
        self._batches = _Batches(records, config, num_workers)
        self._seen = [(-1, 0.0)] * len(self._batches.at)  # the record of each worker, and since when
        self._loader: DataLoader[tuple[Batch, list[BadSample]]] | None = DataLoader(
            self._batches,
            batch_size=None,  # each request is for a whole batch
            sampler=_Requests(self),
            # The default would take every named tuple apart and put it together again.
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batching it gets what the dataset gives
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker,
            # Its own, or each epoch would take a number from the global one, which a resumed epoch took before.
            generator=torch.Generator(),
            pin_memory=config.device.type == "cuda",
        )
        self._running: Iterator[tuple[Batch, list[BadSample]]] | None = None

    @staticmethod
    def _open(path: Path) -> ImageRecords:
        return open_records(path)

    def requests(self) -> Iterator[_Request]:
        """What the workers are asked for in this epoch, batch by batch."""
        for samples in self._planned():
            yield _Request(samples, self._plan.images(samples), self._epoch, self._config.resolution)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            raise loader_closed()
        # Not in a local variable: an iterator that is left lying about must not keep processes that `close` is to end.
        self._running = iter(self._loader)
        while (made := _next_of(self._running)) is not None:
            batch, bad = made
            if bad and self._raise:
                raise BadSampleError(bad[0])
            self.skipped.extend(bad)
            yield batch
            if self._running is None:
                raise epoch_ended()

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work`."""
        now = time.monotonic()
        for worker, record in enumerate(self._batches.at):
            if self._seen[worker][0] != record:
                self._seen[worker] = record, now
        name = self._batches.records.name
        return [(name(record), now - since) for record, since in self._seen if record >= 0]

    def close(self) -> None:
        """End the worker processes; one that waits for a read for seconds is ended in it."""
        stuck: list[str] = []

        def end_stuck_workers() -> None:
            stuck.extend(name for name, _ in self.at_work())
            for worker in workers:
                worker.terminate()  # see `_end_when_the_loader_asks`

        workers = getattr(self._running, "_workers", [])
        ending = threading.Timer(PATIENCE_SECONDS, end_stuck_workers)
        ending.start()
        self._loader = self._running = None  # which waits for the workers
        ending.cancel()
        ending.join()
        warn_of_stuck_reads(stuck, "the loader's processes")


def _next_of(running: Iterator[tuple[Batch, list[BadSample]]]) -> tuple[Batch, list[BadSample]] | None:
    """What the workers made next; None at the end.

    Raises:
        FastvitError: There is no shared memory for it.
    """
    try:
        return next(running, None)
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        shared = os.statvfs(_SHARED_MEMORY)
        raise FastvitError(
            f"the torch backend's workers hand over batches in shared memory: {_SHARED_MEMORY} has no room for them "
            f"({shared.f_frsize * shared.f_blocks >> 20} MB in all); make it larger (docker run --shm-size 8g), use "
            "fewer workers or smaller batches, or the native backend, which needs none"
        ) from error


class _Requests:
    """The DataLoader's sampler; the DataLoader asks it again at the start of each epoch."""

    def __init__(self, loader: TorchLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[_Request]:
        return self._loader.requests()

    def __len__(self) -> int:
        return len(self._loader)


def _as_it_is(item: tuple[Batch, list[BadSample]]) -> tuple[Batch, list[BadSample]]:
    return item


def _start_worker(_worker: int) -> None:
    _native.catch_bus_errors()  # torch has just put its own handler in the place of ours
    _obey_the_loader_alone()


def _obey_the_loader_alone() -> None:
    """In a worker: end at the SIGTERM of the process that it works for, not at one that is sent to all processes.

    Batch systems send it to all, and then the training process needs its workers until it has stopped.
    """
    # A thread waits for the signal, because only that way Python learns who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_when_the_loader_asks, daemon=True).start()


def _end_when_the_loader_asks() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
