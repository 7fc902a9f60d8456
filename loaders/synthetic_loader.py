"""The `synthetic` backend: the same random images again and again, for nothing: the ceiling of training."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from loaders._epochs import PlannedEpochs, epoch_ended, loader_closed
from loaders.config import LoaderConfig
from loaders.contract import Batch
from loaders.records import open_records

__all__ = ["SyntheticLoader"]


class SyntheticLoader(PlannedEpochs):
    """An `ImageLoader` with the dataset's order and labels but noise for images, already on `config.device`.

    Raises:
        FastvitError: The dataset is missing or damaged, or the config does not fit it.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.synthetic_loader import SyntheticLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> loader = SyntheticLoader(Path("train.beton"), config)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(5, 3, 64, 64), (5, 3, 64, 64)]
        >>> loader.close()
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        labels = open_records(path).labels
        super().__init__(config, num_samples=len(labels))
        self._labels = torch.from_numpy(labels).to(config.device)
        self._images: Tensor | None = torch.empty(0)

    def __iter__(self) -> Iterator[Batch]:
        if self._images is None:
            raise loader_closed()
        if self._images.shape[2:] != (self._config.resolution, self._config.resolution):
            self._images = self._noise()
        for index in self._on_device([self._plan.images(samples) for samples in self._planned()]):
            yield Batch(self._images[: len(index)], self._labels[index], index)
            if self._images is None:
                raise epoch_ended()

    def close(self) -> None:
        """Give the device's memory back; a second call does nothing."""
        self._images = None

    def _noise(self) -> Tensor:
        """A batch of random images, uint8 [batch_size, 3, resolution, resolution], channels_last."""
        generator = torch.Generator(self._config.device).manual_seed(self._config.seed)
        images = torch.randint(
            256,
            (self._config.batch_size, self._config.resolution, self._config.resolution, 3),
            dtype=torch.uint8,
            generator=generator,
            device=self._config.device,
        )
        return images.permute(0, 3, 1, 2)
