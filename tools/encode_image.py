"""From an image file or pixels to what a ``.beton`` stores: untouched, re-encoded or raw."""

import io
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from loaders.beton import EncodedImage, ImageMode

Mode = Literal["keep", "reencode", "raw"]

# By content, whatever the file's name says: data sets hold PNG and others under the name of JPEG. The list is short so
# that none of Pillow's rarer readers, one of which starts a PostScript interpreter, ever sees a file.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# Baseline, extended and progressive, each with Huffman or arithmetic coding: what libjpeg-turbo decodes.
_FRAME_MARKERS = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_OTHER_FRAME_MARKERS = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN_MARKER = 0xDA
_MARKERS_ALONE = (0x00, 0x01, *range(0xD0, 0xD9))
_COMPONENTS_OF_GREY_AND_RGB = (1, 3)


class Treatment(StrEnum):
    """What became of an image."""

    KEPT = "kept"
    """Its bytes, or its pixels where it came as pixels, are stored as they came."""
    CONVERTED = "converted"
    """`keep` could not: no JPEG, or one that decoders do not turn into RGB (CMYK, YCCK). It became an RGB JPEG."""
    REENCODED = "re-encoded"
    """Decoded and encoded as JPEG."""
    DECODED = "decoded"
    """Decoded and stored as pixels."""
    RESIZED = "resized"
    """Larger than `max_side`: made smaller, then encoded, or stored as pixels."""


class JpegHeader(NamedTuple):
    """What stands before a JPEG's first scan."""

    height: int
    width: int
    num_components: int
    scan_offset: int
    """Where the first scan's marker is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoder:
    """Brings images into the form in which they are stored.

    Orientation tags are ignored, as FFCV, torchvision and ImageNet's labels do; alpha is dropped.
    """

    mode: Mode
    """`keep` stores a JPEG's own bytes, `reencode` decodes and encodes every image, `raw` stores pixels."""
    max_side: int | None
    """Images whose longer side has more pixels are made smaller, with antialiasing; None leaves all as they are."""
    jpeg_quality: int
    """For every image that is encoded, 1 to 100; chroma is halved in both directions (4:2:0), as in FFCV."""

    def encode(self, data: bytes | NDArray[np.uint8]) -> tuple[EncodedImage, Treatment]:
        """Encode one image, given an image file's bytes or pixels, uint8 [height, width, 3].

        Raises:
            ValueError: The bytes are no image, or not a whole one.
            OSError: Pillow's word for the same.
        """
        if isinstance(data, np.ndarray):
            image, treatment = Image.fromarray(data), Treatment.KEPT
        else:
            if self.mode == "keep" and (kept := self._keep(data)):
                return kept, Treatment.KEPT
            image, treatment = decode_rgb(data), Treatment.DECODED
        if self.max_side is not None and max(image.size) > self.max_side:
            image, treatment = shrink(image, self.max_side), Treatment.RESIZED
        if self.mode == "raw":
            return EncodedImage(np.asarray(image), ImageMode.RAW, image.height, image.width), treatment
        if treatment is not Treatment.RESIZED:
            treatment = Treatment.CONVERTED if self.mode == "keep" else Treatment.REENCODED
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=self.jpeg_quality)
        return EncodedImage(jpeg.getbuffer(), ImageMode.JPG, image.height, image.width), treatment

    def _keep(self, data: bytes) -> EncodedImage | None:
        """The file as it is, if it can stay so."""
        if not data.startswith(_JPEG_START):
            return None
        header = read_jpeg_header(data)
        too_large = self.max_side is not None and max(header.height, header.width) > self.max_side
        if too_large or header.num_components not in _COMPONENTS_OF_GREY_AND_RGB:
            return None
        return EncodedImage(data, ImageMode.JPG, header.height, header.width)


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read a JPEG's segments up to its first scan, and look for the end marker after it (ITU-T T.81, annex B).

    Nothing is decoded: a file that is cut short is found out, one whose scans are garbled is not.

    Raises:
        ValueError: It is damaged or cut short, or of a kind that libjpeg-turbo does not decode.
    """
    frame: bytes | None = None
    position = len(_JPEG_START) - 1
    while True:
        # Like libjpeg, pass over fill bytes and over what lies between segments but belongs to none.
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            raise ValueError("the JPEG is cut short in its header")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _MARKERS_ALONE:
            position += 2
        elif marker == _JPEG_END[1] or marker in _OTHER_FRAME_MARKERS:
            raise ValueError(f"the JPEG has marker 0x{marker:02X} in its header: damaged, or lossless or hierarchical")
        elif marker == _SCAN_MARKER:
            break
        else:
            if marker in _FRAME_MARKERS:
                frame = data[position + 4 : position + 10]
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    if frame is None or len(frame) < 6:
        raise ValueError("the JPEG has no frame header before its first scan")
    precision, height, width = frame[0], int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    if precision != 8 or height == 0 or width == 0:
        raise ValueError(f"a JPEG of {height} x {width} pixels and {precision} bits cannot be decoded")
    if data.find(_JPEG_END, position) < 0:
        raise ValueError("the JPEG is cut short: no end marker after its first scan")
    return JpegHeader(height, width, frame[5], position)


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        ValueError: It is no image, or not one of 8 bits.
        OSError: It is cut short or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have more than 8 bits (Pillow's mode {image.mode}); convert it first")
            # A palette with transparency goes through RGBA: Pillow warns about the direct way.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            rgb = opaque.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(_FORMATS)}, or its header is damaged") from error
    except SyntaxError as error:  # Pillow's word for a damaged PNG
        raise ValueError(str(error)) from error
    rgb.info.clear()  # comments would be saved again
    return rgb


def shrink(image: Image.Image, max_side: int) -> Image.Image:
    """Resize an image, with antialiasing and about its own shape, so that its longer side has `max_side` pixels."""
    scale = max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
