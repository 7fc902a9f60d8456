"""The contenders `spdl` and `spdl-io`: Meta's SPDL, whose pipeline works in threads.

Both read files, decode, crop and resize in as many threads as the others have (`PipelineBuilder.pipe`), collect batches
(`aggregate`) and hand them over through a sink that holds two. What is done to an image may be any function that lets
other threads run. `spdl` decodes and resizes with torchvision, which is the faster one: on Zen 4 1.5 ms of CPU time for
an image of at most 500 px. `spdl-io` does it with SPDL's own functions, FFmpeg's decoder and filters: 2.6 ms.
"""

import random
from collections.abc import Callable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any, Literal

import spdl.io
import torch
from spdl.pipeline import PipelineBuilder
from torch import Tensor

from benchmarks.peers.epochs import Epochs
from benchmarks.peers.pictures import TensorPicture, as_batch, random_box, random_flip
from loaders import LoaderConfig
from loaders.cpus import num_threads
from loaders.errors import MissingPackageError, reason_of
from loaders.image_folder import ClassFolders

__all__ = ["open_epochs"]

_SINK_SIZE = 2  # batches


def open_epochs(path: Path, config: LoaderConfig, *, decodes_with: Literal["torchvision", "ffmpeg"]) -> Epochs:
    """A pipeline over class folders, made again for each epoch, as SPDL's users do.

    Args:
        path: The folder.
        config: What is asked for.
        decodes_with: Which functions make an image.

    Raises:
        MissingPackageError: SPDL's own functions do not find FFmpeg's libraries.
    """
    torch.set_num_threads(1)  # the pipeline's threads are all that shall be
    files = [f"{path}/{name}" for name in ClassFolders(path).names]
    order = random.Random(config.seed)
    make, collect = _torchvision(config) if decodes_with == "torchvision" else _ffmpeg(config)

    def epochs(_number: int) -> Iterator[Sized]:
        if config.order != "sequential":
            order.shuffle(files)
        threads = num_threads(config.num_workers)
        pipeline = (
            PipelineBuilder()
            .add_source(files)
            .pipe(make, concurrency=threads, output_order="input" if config.order == "sequential" else "completion")
            .aggregate(config.batch_size)
            .pipe(collect)
            .add_sink(_SINK_SIZE)
            .build(num_threads=threads)
        )
        with pipeline.auto_stop():
            yield from pipeline

    return epochs


def _torchvision(config: LoaderConfig) -> tuple[Callable[[str], Any], Callable[[list[Any]], Tensor]]:
    picture = TensorPicture(config)
    return lambda file: picture(Path(file).read_bytes()), lambda pictures: as_batch(torch.stack(pictures))


def _ffmpeg(config: LoaderConfig) -> tuple[Callable[[str], Any], Callable[[list[Any]], Tensor]]:
    try:
        spdl.io.decode_config()
    except RuntimeError as error:
        raise MissingPackageError(
            f"spdl-io needs FFmpeg's libraries, which SPDL does not find ({reason_of(error)}); install them with: "
            "apt-get install ffmpeg"
        ) from error
    return partial(_decoded, config), lambda frames: as_batch(spdl.io.to_torch(spdl.io.convert_frames(frames)))


def _decoded(config: LoaderConfig, file: str) -> Any:  # noqa: ANN401 - SPDL's frames
    packets = spdl.io.demux_image(file)
    return spdl.io.decode_packets(packets, filter_desc=_filters(config, packets.height, packets.width))


def _filters(config: LoaderConfig, height: int, width: int) -> str:
    """FFmpeg's filters; its bilinear one weighs all pixels that a pixel of the result covers."""
    side = config.resolution
    if config.crop == "center":
        scale = round(side / config.center_fraction) / min(height, width)
        steps = [f"scale={round(width * scale)}:{round(height * scale)}:flags=bilinear", f"crop={side}:{side}:exact=1"]
    else:
        box = random_box(config, height, width)
        cut = f"crop={box.width}:{box.height}:{box.left}:{box.top}:exact=1"
        steps = [cut, f"scale={side}:{side}:flags=bilinear"]
    return ",".join([*steps, "format=rgb24", *["hflip"] * random_flip(config)])
