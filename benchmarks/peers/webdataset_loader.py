"""The contender `webdataset`: WebDataset's pipeline in the worker processes of its `WebLoader`.

As its documentation advises: many shards, so that each worker has its own; shuffled shards and a shuffle buffer (here
of 1,000 images); batches are made in the workers, and of the file's bytes, with torchvision, which is faster than its
own decoder, Pillow. The shards are written for it from the data, 64 where there are enough images.
"""

import io
import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import webdataset
from torch import Tensor

from benchmarks.peers.epochs import Epochs, LabelledFile
from benchmarks.peers.pictures import TensorPicture, stacked
from benchmarks.peers.worker_processes import epochs_of, worker_options
from loaders import LoaderConfig
from loaders.shards import find_shards

__all__ = ["open_epochs", "write"]

_NUM_SHARDS = 64
_BUFFER = 1000


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """WebDataset over a folder of shards."""
    shards = [str(shard) for shard in find_shards(path)]
    shuffles = config.order != "sequential"
    dataset = webdataset.WebDataset(
        shards, shardshuffle=len(shards) if shuffles else False, seed=config.seed, empty_check=False
    )
    if shuffles:
        dataset = dataset.shuffle(_BUFFER)
    batches = dataset.map(partial(_picture, TensorPicture(config))).batched(config.batch_size, collation_fn=stacked)
    return epochs_of(webdataset.WebLoader(batches, batch_size=None, **worker_options(config)))


def _picture(make: TensorPicture, sample: dict[str, Any]) -> Tensor:
    return make(sample["jpg"])


def write(folder: Path, files: Iterable[LabelledFile], num_images: int) -> Path:
    """Tar shards of WebDataset's naming, with neighbours next to one another."""
    images, num_shards = iter(files), min(_NUM_SHARDS, num_images)
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for index in range(shard * num_images // num_shards, (shard + 1) * num_images // num_shards):
                data, label = next(images)
                for extension, content in (("jpg", data), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{index:09d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder
