"""The `synthetic` backend: the same random images again and again, for nothing: the ceiling of training."""

from collections.abc import Iterator
from pathlib import Path

import torch

from loaders import BadSample, Batch, LoaderConfig
from loaders.records import open_records


class SyntheticLoader:
    """An `ImageLoader` with the dataset's order and labels but noise for images, already on `config.device`."""

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        labels = open_records(path).labels
        self._plan = config.plan(len(labels))
        self._labels = torch.from_numpy(labels).to(config.device)
        self._config = config
        self._epoch = 0
        self._skip_batches = 0
        self.skipped: list[BadSample] = []
        self._set_resolution(config.resolution)

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """See `ImageLoader.set_epoch`."""
        self._epoch = epoch
        self._skip_batches = skip_batches
        if resolution is not None and resolution != self._images.shape[2]:
            self._set_resolution(resolution)

    def __len__(self) -> int:
        return self._plan.num_batches

    def __iter__(self) -> Iterator[Batch]:
        for indices in self._plan.batches(self._epoch, skip=self._skip_batches):
            index = torch.from_numpy(indices).to(self._config.device)
            yield Batch(self._images[: len(indices)], self._labels[index], index)

    def close(self) -> None:
        """Nothing to give back."""

    def _set_resolution(self, resolution: int) -> None:
        generator = torch.Generator(self._config.device).manual_seed(self._config.seed)
        images = torch.randint(
            256,
            (self._config.batch_size, resolution, resolution, 3),
            dtype=torch.uint8,
            generator=generator,
            device=self._config.device,
        )
        self._images = images.permute(0, 3, 1, 2)
