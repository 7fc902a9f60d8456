"""From an image file or pixels to what is stored: its own bytes, rewritten losslessly, encoded anew, or as pixels."""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loaders import _native
from loaders.errors import FastvitError
from loaders.image_files import decode_image

__all__ = ["Chroma", "ImageEncoder", "Mode", "StoredImage", "Treatment", "read_jpeg_header"]

Mode = Literal["keep", "restart", "reencode", "raw", "mixed", "png"]
Chroma = Literal["4:4:4", "4:2:2", "4:2:0"]

_CHROMA_BLOCKS: dict[Chroma, tuple[int, int]] = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}
"""Columns and rows of pixels that share their colour."""

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_COMPONENTS_OF_GREY_AND_RGB = (1, 3)
_RESTART_INTERVAL = 4
"""MCUs between restart markers, about: 32 or 64 pixels, less than which no crop is worth skipping."""


class Treatment(StrEnum):
    """What became of an image."""

    KEPT = "kept"
    """Its bytes, or its pixels where it came as pixels, are stored as they came."""
    REWRITTEN = "rewritten"
    """A JPEG with the same pixels, Huffman tables of its own and restart markers."""
    CONVERTED = "converted"
    """`keep` and `restart` could not: no JPEG, or one that is no RGB or grey (CMYK, YCCK). It became an RGB JPEG."""
    REENCODED = "re-encoded"
    """Decoded and encoded as JPEG."""
    DECODED = "decoded"
    """Decoded and stored as pixels, or as PNG."""
    RESIZED = "resized"
    """Larger than it may be: made smaller, then encoded, or stored as pixels."""


class StoredImage(NamedTuple):
    """An image in the form in which it is stored."""

    data: bytes | NDArray[np.uint8]
    """An image file's bytes, or pixels: uint8 [height, width, 3], RGB, C-contiguous."""
    format: Literal["jpg", "png", "raw"]
    height: int
    width: int
    treatment: Treatment


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoder:
    """Brings images into the form in which they are stored; one may serve many threads.

    Orientation tags are ignored, as FFCV, torchvision and ImageNet's labels do; alpha is dropped.
    """

    mode: Mode
    """`keep` stores a JPEG's own bytes, `restart` rewrites it with restart markers, `reencode` decodes and encodes
    every image, `raw` stores pixels, `mixed` some images as pixels and the others encoded, `png` encodes without
    loss."""
    max_side: int | None = None
    """Images whose longer side has more pixels are made smaller, with antialiasing; None leaves all as they are."""
    min_side: int | None = None
    """The same for the shorter side."""
    jpeg_quality: int = 90
    """For every image that is encoded as JPEG, 1 to 100."""
    chroma: Chroma = "4:2:0"
    """How finely the colours of these are stored."""
    raw_fraction: float = 0.5
    """The share of images that `mixed` stores as pixels, chosen by their names."""

    def encode(self, data: bytes | NDArray[np.uint8], *, name: str) -> StoredImage:
        """Encode one image.

        Args:
            data: An image file's bytes, or pixels, uint8 [height, width, 3].
            name: What the choice of `mixed` goes by.

        Raises:
            FastvitError: The bytes are no image, or not a whole one.
            RuntimeError: libjpeg-turbo's word for the same.
        """
        (image,) = self.encode_all([(data, name)])
        if isinstance(image, Exception):
            raise image
        return image

    def encode_all(
        self, images: Sequence[tuple[bytes | NDArray[np.uint8], str]]
    ) -> list[StoredImage | ValueError | OSError | RuntimeError]:
        """Encode several images, data and name of each, as `encode` does; one that cannot be encoded becomes its error.

        Restart markers take less time for several images than for one after the other.
        """
        results: list[StoredImage | ValueError | OSError | RuntimeError] = []
        to_rewrite: dict[int, StoredImage] = {}
        for number, (data, name) in enumerate(images):
            try:
                image = self._encode(data, name)
            except (ValueError, OSError, RuntimeError) as error:
                results.append(error)
                continue
            results.append(image)
            if image.treatment is Treatment.REWRITTEN:
                to_rewrite[number] = image
        files = [_as_array(image.data) for image in to_rewrite.values()]
        rewritten = _native.add_restart_markers_to_all(files, _RESTART_INTERVAL)
        for (number, image), jpeg in zip(to_rewrite.items(), rewritten, strict=True):
            results[number] = RuntimeError(jpeg) if isinstance(jpeg, str) else image._replace(data=jpeg)
        return results

    def _encode(self, data: bytes | NDArray[np.uint8], name: str) -> StoredImage:
        """Encode an image but for its restart markers."""
        if isinstance(data, np.ndarray):
            return self._store_pixels(data, name, Treatment.KEPT)
        if not data.startswith(_JPEG_START):
            return self._store_pixels(decode_image(data), name, Treatment.DECODED)
        height, width, num_components = read_jpeg_header(data)
        if self.mode in ("keep", "restart") and num_components in _COMPONENTS_OF_GREY_AND_RGB:
            if self._fits(height, width):
                treatment = Treatment.KEPT if self.mode == "keep" else Treatment.REWRITTEN
                return StoredImage(data, "jpg", height, width, treatment)
        elif self._wants_pixels(name) or self.mode == "png":
            pixels = _native.decode_jpeg(_as_array(data), max_side=self.max_side or 0, min_side=self.min_side or 0)
            fits = self._fits(height, width)
            return self._store_pixels(pixels, name, Treatment.DECODED if fits else Treatment.RESIZED)
        encoded, new_height, new_width = _native.reencode_jpeg(_as_array(data), **self._jpeg_options())
        treatment = Treatment.CONVERTED if self.mode in ("keep", "restart") else Treatment.REENCODED
        return StoredImage(encoded, "jpg", new_height, new_width, self._resized(treatment, height, width))

    def _store_pixels(self, pixels: NDArray[np.uint8], name: str, treatment: Treatment) -> StoredImage:
        """Pixels as they are, smaller, or encoded."""
        height, width, _ = pixels.shape
        if not self._wants_pixels(name) and self.mode != "png":
            encoded, new_height, new_width = _native.encode_pixels(pixels, **self._jpeg_options())
            treatment = Treatment.CONVERTED if self.mode in ("keep", "restart") else Treatment.REENCODED
            return StoredImage(encoded, "jpg", new_height, new_width, self._resized(treatment, height, width))
        if not self._fits(height, width):
            pixels = _native.shrink_pixels(pixels, max_side=self.max_side or 0, min_side=self.min_side or 0)
            treatment = Treatment.RESIZED
        height, width, _ = pixels.shape
        if self.mode != "png":
            return StoredImage(pixels, "raw", height, width, treatment)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return StoredImage(file.getvalue(), "png", height, width, treatment)

    def _wants_pixels(self, name: str) -> bool:
        if self.mode == "mixed":
            return zlib.crc32(name.encode("utf-8", "surrogateescape")) < self.raw_fraction * 2**32
        return self.mode == "raw"

    def _fits(self, height: int, width: int) -> bool:
        longer, shorter = max(height, width), min(height, width)
        return longer <= (self.max_side or longer) and shorter <= (self.min_side or shorter)

    def _resized(self, treatment: Treatment, height: int, width: int) -> Treatment:
        return treatment if self._fits(height, width) else Treatment.RESIZED

    def _jpeg_options(self) -> "_native.JpegOptions":
        return {
            "max_side": self.max_side or 0,
            "min_side": self.min_side or 0,
            "quality": self.jpeg_quality,
            "chroma": _CHROMA_BLOCKS[self.chroma],
            "restart_interval": _RESTART_INTERVAL,
        }


def read_jpeg_header(data: bytes) -> tuple[int, int, int]:
    """Read a JPEG's header, and see that the file does not end before its end marker.

    Nothing is decoded: a file that is cut short is found out, one whose scans are garbled is not.

    Returns:
        Height and width in pixels, and the number of components.

    Raises:
        RuntimeError: The header is damaged, or of a kind that libjpeg-turbo does not decode.
        FastvitError: The file is cut short.
    """
    height, width, num_components, scan_offset = _native.read_jpeg_header(_as_array(data))
    if data.rfind(_JPEG_END, scan_offset) < 0:  # a preview in the header has an end marker of its own
        raise FastvitError("the JPEG is cut short: it has no end marker")
    return height, width, num_components


def _as_array(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
