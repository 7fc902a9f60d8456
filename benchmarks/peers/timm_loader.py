"""The contender `timm`: timm's dataset, transforms and loader (`timm.data.create_dataset`, `create_loader`).

Its fastest settings: the prefetcher's path, in which workers hand over uint8 and nothing is normalised image by image,
and workers that stay from epoch to epoch. What the prefetcher then does on the training device, copy and normalise, is
left out, as all contenders hand over uint8. Crops, flips and the bilinear filter are those of all; colour jitter, which
timm has by default, is off. timm drops an epoch's last batch, which here it does not.
"""

from collections.abc import Iterator, Sized
from pathlib import Path

from timm.data import create_dataset, create_loader

from benchmarks.peers.epochs import Epochs
from loaders import LoaderConfig

__all__ = ["open_epochs"]


def open_epochs(path: Path, config: LoaderConfig) -> Epochs:
    """Timm's loader over class folders, for random crops and for centre crops."""
    is_training = config.crop == "random_resized"
    loader = create_loader(
        create_dataset("", root=str(path), is_training=is_training),
        input_size=(3, config.resolution, config.resolution),
        batch_size=config.batch_size,
        is_training=is_training,
        scale=config.area,
        ratio=config.ratio,
        color_jitter=None,
        interpolation="bilinear",
        crop_pct=config.center_fraction,
        num_workers=config.num_workers or 0,
        persistent_workers=bool(config.num_workers),
        pin_memory=config.device.type == "cuda",
        device=config.device,
    ).loader
    loader.batch_sampler.drop_last = False

    def epochs(_number: int) -> Iterator[Sized]:
        return (images for images, _ in loader)

    return epochs
