"""The contender `limit`: libjpeg-turbo decodes every crop's rows and columns and throws them away."""

from collections.abc import Iterator, Sized
from pathlib import Path

from benchmarks import _limit
from benchmarks.peers.epochs import Epochs, open_jpegs
from loaders import LoaderConfig
from loaders.cpus import num_threads

__all__ = ["open_epochs"]


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """Region decoding of a `.beton` file of JPEGs with the loaders' order and crops.

    Raises:
        FastvitError: The file is damaged or holds raw images; while it runs, an image cannot be decoded.
    """
    beton = open_jpegs(path, "limit")
    plan = config.plan(beton.num_samples)

    def epochs(number: int) -> Iterator[Sized]:
        for indices in plan.batches(number):
            crops = config.crops(indices, heights=beton.heights[indices], widths=beton.widths[indices], epoch=number)
            _limit.decode_regions(
                beton.data,
                offsets=beton.offsets[indices],
                sizes=beton.sizes[indices],
                boxes=crops.boxes,
                num_threads=num_threads(config.num_workers),
            )
            yield indices

    return epochs
