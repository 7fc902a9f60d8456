"""Libraries that decode a whole JPEG in memory to RGB pixels, each in its fastest way that gives the same pixels.

- `opencv`: `imdecode` to RGB, so that no second pass swaps colours; without EXIF's orientation, which the others ignore
  too; with its own threads off.
- `pillow`: without `convert` where the image is RGB already, which would copy it.
- `imageio`: its interface of version 3 with the reader named, so that it does not try one after the other.
- `torchvision`: `decode_jpeg`, and the view [height, width, 3] of what it gives, which costs nothing.
- `turbojpeg`: PyTurboJPEG of version 1, which takes the libjpeg-turbo that Debian has; version 2 wants 3.0.

All of them let other threads run while they decode.
"""

import importlib.metadata
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.errors import reason_of

__all__ = ["DECODERS", "Decode", "Decoder", "problem_of", "version_of"]

Decode = Callable[[bytes], NDArray[np.uint8]]
"""A JPEG's pixels, uint8 [height, width, 3]."""


class Decoder(NamedTuple):
    """What a decoder is."""

    load: Callable[[], Decode]
    """Imports the library."""
    packages: tuple[str, ...]
    """What it may be installed as."""
    install: str
    """The command that installs it."""


def _fastvit() -> Decode:
    from loaders.image_files import decode_image

    return decode_image


def _imageio() -> Decode:
    from imageio import v3

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = v3.imread(jpeg, plugin="pillow", mode="RGB")
        return pixels

    return decode


def _opencv() -> Decode:
    import cv2

    cv2.setNumThreads(0)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags), np.uint8)

    return decode


def _pillow() -> Decode:
    from PIL import Image

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        image: Image.Image = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    return decode


def _simplejpeg() -> Decode:
    import simplejpeg

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, "RGB")
        return pixels

    return decode


def _torchvision() -> Decode:
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        file = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)  # torch warns of memory that it may not write
        pixels: NDArray[np.uint8] = decode_jpeg(file, ImageReadMode.RGB).permute(1, 2, 0).numpy()
        return pixels

    return decode


def _turbojpeg() -> Decode:
    import turbojpeg

    library = turbojpeg.TurboJPEG()

    def decode(jpeg: bytes) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = library.decode(jpeg, pixel_format=turbojpeg.TJPF_RGB)
        return pixels

    return decode


DECODERS = {
    "fastvit": Decoder(_fastvit, ("fastvit",), "pip install fastvit"),
    "imageio": Decoder(_imageio, ("imageio",), "pip install imageio"),
    "opencv": Decoder(
        _opencv, ("opencv-python-headless", "opencv-python"), "pip install 'opencv-python-headless>=4.11'"
    ),
    "pillow": Decoder(_pillow, ("pillow",), "pip install pillow"),
    "simplejpeg": Decoder(_simplejpeg, ("simplejpeg",), "pip install simplejpeg"),
    "torchvision": Decoder(_torchvision, ("torchvision",), "pip install torchvision"),
    "turbojpeg": Decoder(_turbojpeg, ("PyTurboJPEG",), "pip install 'PyTurboJPEG<2' && apt-get install libturbojpeg0"),
}
"""The decoders by name; that of fastvit first."""


def problem_of(name: str) -> str | None:
    """Why a decoder cannot be used here, which trying finds out: a package may lack its library; None where it can."""
    try:
        DECODERS[name].load()
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        return reason_of(error)
    return None


def version_of(name: str) -> str | None:
    """The version of the package that a decoder is installed as; None where no package manager knows of it."""
    for package in DECODERS[name].packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
