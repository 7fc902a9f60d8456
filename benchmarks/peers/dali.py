"""The contenders `dali-plain` and `dali-plain-mixed`: NVIDIA DALI with its own readers, shuffling and random crops.

That is the pipeline of NVIDIA's ResNet-50 example (docs/examples/use_cases/pytorch/resnet50/main.py in DALI) with
torchvision's range of crops, in what was fastest here: the executor that does not copy batches, mirroring within the
resize, uint8 images. DALI chooses order and crops itself, so its images are not those of the other loaders.
"""

import math
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.dlpack import from_dlpack

from benchmarks.peers.epochs import Epochs
from loaders import LoaderConfig
from loaders.cpus import num_threads
from loaders.errors import FastvitError, MissingPackageError
from loaders.image_files import IMAGE_EXTENSIONS
from loaders.tar_shard import find_shards

try:
    from nvidia.dali import Pipeline, fn, tfrecord
    from nvidia.dali.data_node import DataNode
except ImportError as error:
    raise MissingPackageError(
        f"dali-plain needs NVIDIA DALI, which does not import here ({error}); install it with: "
        "pip install 'fastvit[dali]'"
    ) from error

__all__ = ["open_epochs"]

_READER = "reader"
_DEPTH = 2  # batches under way
_ATTEMPTS = 10  # to find a crop that fits, as torchvision


def open_epochs(
    path: Path, config: LoaderConfig, *, decodes_on: Literal["cpu", "mixed"] = "cpu", whole_images: bool = False
) -> Epochs:
    """DALI over class folders, tar shards or TFRecord shards; its batches are uint8 [b, 3, h, w], channels_last.

    The pipeline runs on from epoch to epoch, and all its batches are full: an epoch has as many as hold all images. As
    with all loaders that are measured, nothing is under way between two epochs.

    Args:
        path: The folder or the shards.
        config: What is asked for.
        decodes_on: The CPU, or CPU and card together (mixed), where the batches then are as well.
        whole_images: Cut random crops out of decoded images, rather than decode the crops alone.

    Raises:
        FastvitError: The crop is `shift`, or TFRecord shards have no index; while it runs, an image cannot be decoded.
    """
    if config.crop == "shift":
        raise FastvitError("DALI has no shift that reflects the border: leave dali-plain out of --loaders")
    pipeline = Pipeline(
        batch_size=config.batch_size,
        num_threads=num_threads(config.num_workers),
        device_id=None if decodes_on == "cpu" else config.device.index or 0,
        prefetch_queue_depth=_DEPTH,
        exec_dynamic=True,  # the other executor copies every batch
        seed=config.seed,
    )
    with pipeline:
        pipeline.set_outputs(_images(_encoded(path, config), config, decodes_on, whole_images=whole_images))
    pipeline.build()
    num_batches = math.ceil(pipeline.reader_meta(_READER)["epoch_size"] / config.batch_size)
    batches = _Batches(pipeline, path, on_card=decodes_on == "mixed")
    return lambda _: batches.take(num_batches)


class _Batches:
    """The pipeline's batches, of which none is made that is not taken."""

    def __init__(self, pipeline: Pipeline, path: Path, *, on_card: bool) -> None:
        self._pipeline = pipeline
        self._path = path
        self._on_card = on_card
        self._num_ahead = 0
        self._is_new = True

    def take(self, number: int) -> Iterator[Sized]:
        """The next ones."""
        for left in range(number, 0, -1):
            while self._num_ahead < min(_DEPTH, left):
                self._pipeline.schedule_run()
                self._num_ahead += _DEPTH if self._is_new else 1  # the first call fills the queue
                self._is_new = False
            yield self._next()

    def _next(self) -> torch.Tensor:
        stream = torch.cuda.current_stream() if self._on_card else None
        self._num_ahead -= 1
        try:
            (images,) = self._pipeline.outputs(cuda_stream=stream)
        except RuntimeError as error:  # a page of text, in which the reason stands behind this word
            reason = str(error).rpartition("encountered:")[2].strip().splitlines()[0]
            raise FastvitError(f"DALI cannot load {self._path}: {reason}") from error
        return from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)


def _encoded(path: Path, config: LoaderConfig) -> DataNode:
    """Image files' bytes from DALI's reader of the format, which shuffles in a buffer of its default size."""
    shuffles = config.order != "sequential"
    shards = find_shards(path)
    indices = [str(index) for shard in shards if (index := shard.with_suffix(".idx")).exists()]
    paths = [str(shard) for shard in shards]
    if not shards:
        return fn.readers.file(file_root=str(path), random_shuffle=shuffles, name=_READER)[0]
    if shards[0].suffix == ".tar":
        index_paths = indices if len(indices) == len(paths) else []
        extensions = ";".join(extension.removeprefix(".") for extension in IMAGE_EXTENSIONS)
        return fn.readers.webdataset(
            paths=paths, index_paths=index_paths, ext=[extensions], random_shuffle=shuffles, name=_READER
        )
    if len(indices) < len(paths):
        raise FastvitError(f"{path}: DALI needs an .idx file next to each shard; make it with DALI's tfrecord2idx")
    key = "image/encoded"
    features = {key: tfrecord.FixedLenFeature([], tfrecord.string, "")}
    read: Any = fn.readers.tfrecord(
        path=paths, index_path=indices, features=features, random_shuffle=shuffles, name=_READER
    )
    return read[key]


def _images(
    encoded: DataNode, config: LoaderConfig, decodes_on: Literal["cpu", "mixed"], *, whole_images: bool
) -> DataNode:
    """Decoded, cropped and resized, uint8 [h, w, 3] each."""
    side = (config.resolution, config.resolution)
    if config.crop != "random_resized":
        images = fn.decoders.image(encoded, device=decodes_on)
        if config.crop == "whole":
            return fn.resize(images, size=side)
        return fn.resize_crop_mirror(images, resize_shorter=round(side[0] / config.center_fraction), crop=side)
    region: dict[str, Any] = {
        "random_area": config.area,
        "random_aspect_ratio": config.ratio,
        "num_attempts": _ATTEMPTS,
    }
    mirror = fn.random.coin_flip()
    if whole_images:
        images = fn.random_resized_crop(fn.decoders.image(encoded, device=decodes_on), size=side, **region)
        return fn.flip(images, horizontal=mirror)
    images = fn.decoders.image_random_crop(encoded, device=decodes_on, **region)
    return fn.resize_crop_mirror(images, size=side, crop=side, mirror=mirror)
