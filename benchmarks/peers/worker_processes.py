"""PyTorch's `DataLoader` with the settings that are best for all peers whose work is done in its processes."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.peers.epochs import Epochs
from benchmarks.peers.pictures import as_batch
from loaders import LoaderConfig

__all__ = ["epochs_of", "worker_options"]


def worker_options(config: LoaderConfig) -> Mapping[str, Any]:
    """Processes that stay from epoch to epoch, and pinned memory where batches go to a GPU."""
    num_workers = config.num_workers or 0
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": config.device.type == "cuda",
        "generator": torch.Generator().manual_seed(config.seed),
    }


def epochs_of(loader: "DataLoader[Any]") -> Epochs:
    """The epochs of a `DataLoader` that hands over uint8 [b, h, w, 3]; it shuffles by itself, whatever the number."""

    def epochs(_number: int) -> Iterator[Sized]:
        return map(as_batch, loader)

    return epochs
