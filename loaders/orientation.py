"""EXIF orientation: phones store photos as the sensor saw them, with a note of how they are to be turned."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loaders import _native

__all__ = ["UPRIGHT", "ExifOrientation", "read_orientation", "turn_pixels"]

ExifOrientation = Literal["ignore", "apply"]
"""Whether images are taken as they are stored, or turned upright."""

UPRIGHT = 1
"""The orientation of an image that is stored as it is to be seen."""


def read_orientation(file: bytes | NDArray[np.uint8]) -> int:
    """How the pixels of an image file are to be turned to be seen upright, by EXIF's numbers from 1 to 8.

    It is read from the EXIF data of a JPEG or a WebP, from a PNG's eXIf chunk or from a TIFF's tags.

    Args:
        file: The whole file, of any format.

    Returns:
        `UPRIGHT` for a file that does not say, or whose EXIF data is damaged.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.orientation import read_orientation
        >>> read_orientation(Path("photos/cat/0.jpg").read_bytes())
        1
    """
    return _native.exif_orientation(np.frombuffer(file, np.uint8))


def turn_pixels(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn what is stored in one of EXIF's orientations upright.

    Args:
        pixels: uint8 [h, w, 3], C-contiguous.
        orientation: What `read_orientation` said.

    Returns:
        uint8 [h, w, 3], or [w, h, 3] for the orientations from 5 on.

    Examples:
        >>> import numpy as np
        >>> from loaders.orientation import turn_pixels
        >>> grey = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
        >>> turn_pixels(np.repeat(grey[:, :, None], 3, axis=2), 6)[:, :, 0]  # to be turned clockwise
        array([[4, 1],
               [5, 2],
               [6, 3]], dtype=uint8)
    """
    return pixels if orientation == UPRIGHT else _native.turn_pixels(pixels, orientation=orientation)
