"""The contender `limit`: libjpeg-turbo decodes every crop's rows and columns and throws them away."""

from pathlib import Path

from benchmarks import _limit
from benchmarks.harness import Work
from loaders import LoaderConfig
from loaders.beton import Beton, ImageMode


def region_decoding(path: Path, config: LoaderConfig) -> Work:
    """Whole epochs of region decoding over a `.beton` file of JPEGs; the crops are those of the loaders.

    Raises:
        ValueError: The file holds raw images.
    """
    beton = Beton(path)
    if (beton.modes == ImageMode.RAW).any():
        raise ValueError(f"limit decodes JPEGs, but {path} holds raw images: leave it out of --loaders")
    plan = config.plan(beton.num_samples)

    def work(number: int) -> int:
        num_images = 0
        for indices in plan.batches(number):
            crops = config.crops(indices, heights=beton.heights[indices], widths=beton.widths[indices], epoch=number)
            _limit.decode_regions(
                beton.data,
                offsets=beton.offsets[indices],
                sizes=beton.sizes[indices],
                boxes=crops.boxes,
                num_threads=config.num_workers,
            )
            num_images += len(indices)
        return num_images

    return work
