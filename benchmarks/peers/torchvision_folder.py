"""The contenders `torch-pil` and `torch-pil-draft`: torchvision's ImageFolder, Pillow and a `DataLoader`.

That is what torchvision's references (references/classification/presets.py, with the backend "pil") do to an image up
to where they make floats of it: a random crop, resized bilinearly with antialiasing, and a random flip. Faster than
their two steps is Pillow's `resize` with a `box`, which does not copy the crop first. `torch-pil-draft` also has
libjpeg decode at 1/2, 1/4 or 1/8 of the size where the crop is then still no smaller than the picture (Pillow's
`draft`); its pixels differ from those of a full decode.

Pillow-SIMD takes Pillow's place where it is installed; there is nothing to set.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.peers.epochs import Epochs
from benchmarks.peers.pictures import PillowPicture, stacked
from benchmarks.peers.worker_processes import epochs_of, worker_options
from loaders import LoaderConfig

__all__ = ["open_epochs"]


def open_epochs(path: Path, config: LoaderConfig, *, drafts: bool = False) -> Epochs:
    """A `DataLoader` over class folders.

    Args:
        path: The folder.
        config: What is asked for.
        drafts: Decode at a smaller size where that is enough.
    """
    dataset = ImageFolder(str(path), transform=PillowPicture(config, drafts=drafts), loader=Image.open)
    loader = DataLoader(
        dataset,
        batch_size=config.batch_size,
        shuffle=config.order != "sequential",
        collate_fn=_images,
        **worker_options(config),
    )
    return epochs_of(loader)


def _images(samples: list[tuple[NDArray[np.uint8], int]]) -> Tensor:
    return stacked([image for image, _ in samples])
