"""The `torch` backend: whole images and torchvision's transforms in a DataLoader, the reference for all others."""

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from loaders._epochs import PlannedEpochs, bad_sample, epoch_ended, loader_closed
from loaders.config import LoaderConfig
from loaders.contract import BadSample, BadSampleError, Batch
from loaders.cpus import automatic_workers
from loaders.image_files import ImageError
from loaders.records import ImageRecords, open_records

__all__ = ["TorchLoader"]


class _Request(NamedTuple):
    """What a worker needs to make one batch, so that it needs no state itself."""

    samples: NDArray[np.int64]
    indices: NDArray[np.int64]
    epoch: int
    resolution: int


class _Batches(Dataset[tuple[Batch, list[BadSample]]]):
    """Whole batches by request; runs in the workers."""

    def __init__(self, records: ImageRecords, config: LoaderConfig) -> None:
        self._records = records
        self._config = config

    def __getitem__(self, request: _Request) -> tuple[Batch, list[BadSample]]:
        images: list[Tensor] = []
        good: list[int] = []
        bad: list[BadSample] = []
        for sample, index in zip(request.samples.tolist(), request.indices.tolist(), strict=True):
            try:
                images.append(self._sample(sample, index, request))
                good.append(index)
            except (OSError, RuntimeError, ImageError) as error:
                bad.append(bad_sample(self._records, index, error))
        # In a worker, collating writes into memory that it shares with the main process: nothing is copied again.
        side = request.resolution
        pixels = default_collate(images) if images else torch.empty((0, side, side, 3), dtype=torch.uint8)
        indices = np.array(good, dtype=np.int64)
        labels = torch.from_numpy(self._records.labels[indices])
        return Batch(pixels.permute(0, 3, 1, 2), labels, torch.from_numpy(indices)), bad

    def _sample(self, sample: int, index: int, request: _Request) -> Tensor:
        """One image of the batch, uint8 [resolution, resolution, 3]; raises as `ImageRecords.decode` does."""
        config, side = self._config, request.resolution
        resize = partial(transforms.resize, interpolation=InterpolationMode(config.interpolation), antialias=True)
        image = self._records.decode(index)
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
    """An `ImageLoader` over a `.beton` file, an ImageFolder or tar shards.

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
        self._loader: DataLoader[tuple[Batch, list[BadSample]]] | None = DataLoader(
            _Batches(records, config),
            batch_size=None,  # each request is for a whole batch
            sampler=_Requests(self),
            # The default would take every named tuple apart and put it together again.
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batching it gets what the dataset gives
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_obey_the_loader_alone,
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
        while (made := next(self._running, None)) is not None:
            batch, bad = made
            if bad and self._raise:
                raise BadSampleError(bad[0])
            self.skipped.extend(bad)
            yield batch
            if self._running is None:
                raise epoch_ended()

    def close(self) -> None:
        """End the worker processes."""
        self._loader = self._running = None


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


def _obey_the_loader_alone(_worker: int) -> None:
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
