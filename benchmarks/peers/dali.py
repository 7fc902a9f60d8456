"""The contender `dali`: NVIDIA DALI over the same file, with the loaders' order and crops.

Of what DALI offers, this was fastest on the CPU: `image_slice` with boxes of ours is as fast as `image_random_crop`
with its own, and faster than decoding whole images; mirroring costs nothing within the resize; encoded bytes are not
copied.
"""

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from benchmarks.peers.epochs import Epochs, open_jpegs
from loaders import LoaderConfig
from loaders.cpus import num_threads
from loaders.errors import FastvitError, MissingPackageError

try:
    from nvidia.dali import Pipeline, fn, types
except ImportError as error:
    raise MissingPackageError(
        f"dali needs NVIDIA DALI, which does not import here ({error}); install it with: pip install 'fastvit[dali]'"
    ) from error

__all__ = ["open_epochs"]


def open_epochs(path: Path, config: LoaderConfig, *, decodes_on: Literal["cpu", "mixed"] = "cpu") -> Epochs:
    """DALI over a `.beton` file of JPEGs; its batches are uint8 [b, 3, h, w], channels_last.

    Args:
        path: The file.
        config: What is asked for.
        decodes_on: The CPU, or CPU and card together (mixed), where the batches then are as well.

    Raises:
        FastvitError: The file is damaged or holds raw images, or the crop is `shift`; while it runs, an image cannot be
            decoded.
    """
    if config.crop == "shift":
        raise FastvitError("dali has no shift that reflects the border: leave it out of --loaders")
    feed = _Feed(path, config)
    pipeline = _build_pipeline(feed, config, decodes_on)

    def epochs(number: int) -> Iterator[Sized]:
        feed.epoch = number
        while True:
            try:
                (images,) = pipeline.run()
            except StopIteration:
                break
            except RuntimeError as error:  # a page of text, in which the reason stands behind this word
                reason = str(error).rpartition("encountered:")[2].strip().splitlines()[0]
                raise FastvitError(f"DALI cannot load {path}: {reason}") from error
            yield from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)
        pipeline.reset()

    return epochs


class _Feed:
    """The batches that DALI asks for, from the start again in each epoch."""

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        self.epoch = 0
        self._beton = open_jpegs(path, "dali")
        self._config = config
        self._plan = config.plan(self._beton.num_samples)

    def encoded(self) -> Iterator[list[NDArray[np.uint8]]]:
        """JPEGs, each uint8 [size], where they lie in the mapped file."""
        for indices in self._plan.batches(self.epoch):
            yield [self._beton.image_bytes(index) for index in indices.tolist()]

    def crops(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]]:
        """Top and left, height and width, each int32 [b, 2], and whether to mirror: int32 [b]."""
        heights, widths = self._beton.heights, self._beton.widths
        for indices in self._plan.batches(self.epoch):
            boxes, flips, _ = self._config.crops(
                indices, heights=heights[indices], widths=widths[indices], epoch=self.epoch
            )
            start, shape = np.ascontiguousarray(boxes[:, :2]), np.ascontiguousarray(boxes[:, 2:])
            yield start, shape, flips.astype(np.int32)


def _build_pipeline(feed: _Feed, config: LoaderConfig, decodes_on: Literal["cpu", "mixed"]) -> Pipeline:
    pipeline = Pipeline(
        batch_size=config.batch_size,
        num_threads=num_threads(config.num_workers),
        device_id=None if decodes_on == "cpu" else 0,
        prefetch_queue_depth=2,
        exec_dynamic=True,  # the other executor copies every batch
    )
    with pipeline:
        encoded = fn.external_source(source=feed.encoded, no_copy=True, cycle="raise", dtype=types.UINT8, ndim=1)
        start, shape, mirror = fn.external_source(
            source=feed.crops,  # type: ignore[arg-type, unused-ignore]  # DALI's types know no function that yields
            num_outputs=3,
            cycle="raise",
            dtype=types.INT32,
            ndim=[1, 1, 0],
        )
        images = fn.decoders.image_slice(
            encoded, device=decodes_on, start=start, shape=shape, axes=[0, 1], adjust_orientation=False
        )
        size = (config.resolution, config.resolution)
        pipeline.set_outputs(fn.resize_crop_mirror(images, size=size, crop=size, mirror=mirror))
    pipeline.build()
    return pipeline
