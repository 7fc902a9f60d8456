"""The `resident` backend: a small dataset lives decoded in the device's memory and is gathered there batch by batch."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from loaders._epochs import PlannedEpochs, bad_sample, epoch_ended, loader_closed
from loaders.config import LoaderConfig
from loaders.contract import BadSample, BadSampleError, Batch
from loaders.cpus import num_threads
from loaders.errors import FastvitError
from loaders.image_files import ImageError
from loaders.reads import ReaderThreads, warn_of_stuck_reads
from loaders.records import ImageRecords, open_records

__all__ = ["ResidentLoader"]


class ResidentLoader(PlannedEpochs):
    """An `ImageLoader` over images of one size (such as CIFAR-10) that hands over whole images on `config.device`.

    Decoding happens once, at construction. Images are resized to the loader's resolution on the device.

    Raises:
        FastvitError: The dataset is missing or damaged, its images differ in size, or the config does not fit it.
        BadSampleError: An image cannot be decoded, with `on_error="raise"`.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.resident_loader import ResidentLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="whole", order="random", drop_last=False)
        >>> loader = ResidentLoader(Path("train.beton"), config)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(5, 3, 64, 64), (5, 3, 64, 64)]
        >>> loader.close()
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        if config.crop != "whole":
            raise FastvitError(f'the resident backend loads whole images: crop must be "whole", got "{config.crop}"')
        records = open_records(path)
        super().__init__(config, num_samples=len(records.labels))
        images, self._bad = _decode_all(records, path, config)
        if self._bad and config.on_error == "raise":
            raise BadSampleError(next(iter(self._bad.values())))
        self._images: Tensor | None = images.to(config.device)
        self._labels = torch.from_numpy(records.labels).to(config.device)

    def __iter__(self) -> Iterator[Batch]:
        if self._images is None:
            raise loader_closed()
        resolution, interpolation = self._config.resolution, InterpolationMode(self._config.interpolation)
        planned = [self._plan.images(samples) for samples in self._planned()]
        good = planned
        if self._bad:
            good = [batch[[index not in self._bad for index in batch.tolist()]] for batch in planned]
        for batch, index in zip(planned, self._on_device(good), strict=True):
            if len(index) < len(batch):
                self.skipped.extend(self._bad[index] for index in batch.tolist() if index in self._bad)
            images = self._images.index_select(0, index).permute(0, 3, 1, 2)
            if images.shape[2:] != (resolution, resolution):
                images = transforms.resize(images, [resolution, resolution], interpolation, antialias=True)
                images = images.contiguous(memory_format=torch.channels_last)
            yield Batch(images, self._labels[index], index)
            if self._images is None:
                raise epoch_ended()

    def close(self) -> None:
        """Give the device's memory back."""
        self._images = None


def _decode_all(records: ImageRecords, path: Path, config: LoaderConfig) -> tuple[Tensor, dict[int, BadSample]]:
    """Decode every record into uint8 [n, h, w, 3] (zeros where it is damaged) and list the damaged ones by index."""
    bad: dict[int, BadSample] = {}
    num_samples = len(records.labels)

    def decode(index: int) -> Tensor | None:
        threads.at(partial(records.name, index))
        try:
            return records.decode(index, exif_orientation=config.exif_orientation)
        except (OSError, ImageError) as error:
            bad[index] = bad_sample(records, index, error)
            return None

    stored: Tensor | None = None
    threads = ReaderThreads(num_threads(config.num_workers))
    try:
        futures = deque(threads.submit(partial(decode, index)) for index in range(num_samples))
        for index in range(num_samples):
            image = futures.popleft().result()
            if image is None:
                continue
            if stored is None:
                stored = torch.zeros((num_samples, *image.shape[1:], 3), dtype=torch.uint8)
            if image.shape[1:] != stored.shape[1:3]:
                raise FastvitError(
                    f"the resident backend needs images of one size, but {records.name(index)} is "
                    f"{tuple(image.shape[1:])} and those before it are {tuple(stored.shape[1:3])} "
                    "(height, width); use another --data.backend"
                )
            stored[index] = image.permute(1, 2, 0)
    finally:
        warn_of_stuck_reads(threads.close(), "the loader's threads")
    if stored is None:
        first = next(iter(bad.values()))
        raise FastvitError(f"no image of {path} can be decoded, such as {first.name}: {first.reason}")
    return stored, bad
