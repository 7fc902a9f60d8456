"""fastvit's loader for timm's train.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from loaders import LoaderConfig, build_loader


class TimmLoader:
    """What train.py asks of a loader; run it with `--no-prefetcher`.

    Args:
        path: A .beton file, an ImageFolder or shards.
        split: Random crops and flips in random order, or center crops.
        batch_size: Images per rank, `args.batch_size`.
        resolution: Side of the images, `data_config["input_size"][-1]`.
        mean: Of each channel, `data_config["mean"]`.
        std: Of each channel, `data_config["std"]`.
        device: Where the batches go.
        rank: `args.rank`.
        world_size: `args.world_size`.
        seed: `args.seed`.
    """

    def __init__(
        self,
        path: Path,
        split: Literal["train", "val"],
        *,
        batch_size: int,
        resolution: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 42,
    ) -> None:
        is_train = split == "train"
        config = LoaderConfig(
            batch_size=batch_size,
            resolution=resolution,
            crop="random_resized" if is_train else "center",
            order="random" if is_train else "sequential",
            drop_last=is_train,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=device,
        )
        self._loader = build_loader("native", path, config)
        self._device = device
        self._mean, self._std = (
            torch.tensor(values, device=device).view(3, 1, 1)
            for values in (mean, std)
        )
        self._epoch = 0

    @property
    def sampler(self) -> "TimmLoader":
        """train.py calls `loader.sampler.set_epoch` in distributed runs."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; without this, it counts its iterations."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._loader.set_epoch(self._epoch)
        self._epoch += 1
        for images, labels, _ in self._loader:
            yield (
                (images.to(self._device) / 255 - self._mean) / self._std,
                labels.to(self._device),
            )
