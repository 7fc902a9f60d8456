"""What the loaders are measured against: a module each, whose `open_epochs(path, config)` gives its `Epochs`.

`ffcv_writer` is what the converters are measured against, `timm_train` the trainer.
"""

from collections.abc import Callable, Iterator, Sized
from pathlib import Path

from loaders.beton import Beton, ImageMode

Epochs = Callable[[int], Iterator[Sized]]
"""Makes the batches of epoch k, one by one; a batch's length is its number of images."""


def open_jpegs(path: Path, peer: str) -> Beton:
    """Open a `.beton` file for a peer that decodes JPEGs and nothing else.

    Raises:
        ValueError: The file is damaged or holds raw images.
    """
    beton = Beton(path)
    if (beton.modes == ImageMode.RAW).any():
        raise ValueError(f"{peer} decodes JPEGs, but {path} holds raw images: leave it out of --loaders")
    return beton
