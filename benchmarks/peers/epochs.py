"""What a loader that is measured against ours gives the benchmark."""

from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import NamedTuple

from loaders.beton import Beton, ImageMode
from loaders.errors import FastvitError

__all__ = ["Epochs", "LabelledFile", "open_jpegs"]

Epochs = Callable[[int], Iterator[Sized]]
"""Makes the batches of epoch k, one by one; a batch's length is its number of images."""


class LabelledFile(NamedTuple):
    """An image file's bytes and its class, of which a peer's own format is made."""

    data: bytes
    label: int


def open_jpegs(path: Path, peer: str) -> Beton:
    """Open a `.beton` file for a peer that decodes JPEGs and nothing else.

    Raises:
        FastvitError: The file is damaged or holds raw images.
    """
    beton = Beton(path)
    if (beton.modes == ImageMode.RAW).any():
        raise FastvitError(f"{peer} decodes JPEGs, but {path} holds raw images: leave it out of --loaders")
    return beton
