"""Image files: how their names end, and the pixels of one of any format."""

import io
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from loaders import _native
from loaders.errors import FastvitError, reason_of

__all__ = ["IMAGE_EXTENSIONS", "ImageError", "decode_image"]

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""How the names of image files end, in lower case. What a file really is, its content says."""

_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"

# Pillow's readers one by one: `Image.open` would try them all, one of which starts a PostScript interpreter.
_READERS: dict[str, tuple[Callable[[bytes], bool], type[ImageFile]]] = {
    "PNG": (lambda start: start.startswith(_PNG_START), PngImageFile),
    "WebP": (lambda start: start.startswith(b"RIFF") and start[8:12] == b"WEBP", WebPImageFile),
    "GIF": (lambda start: start.startswith((b"GIF87a", b"GIF89a")), GifImageFile),
    "BMP": (lambda start: start.startswith(b"BM"), BmpImageFile),
    "TIFF": (lambda start: start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), TiffImageFile),
    "PPM": (lambda start: start[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), PpmImageFile),
}

# More than any camera takes. A file of some kilobytes may claim any number, and fill the memory.
_MAX_PIXELS = 2**29 // 3
_MAX_SIDE = 65_535

# Values of tags of TIFF.
_WHITE_IS_ZERO = 0
_IN_PLANES = 2


class ImageError(FastvitError):
    """An image file cannot be decoded; the message is the reason, in one line.

    Examples:
        >>> from loaders.image_files import ImageError, decode_image
        >>> try:
        ...     decode_image(b"<!DOCTYPE html>")
        ... except ImageError as error:
        ...     print(error)
        it is none of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM
    """


def decode_image(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode an image file of any format, which its content decides and not its name.

    Of an animation it is the first frame. Of 16 bits the high byte is taken. Alpha is dropped, and EXIF orientation is
    ignored.

    Args:
        data: The whole file.

    Returns:
        The pixels, RGB, uint8 [height, width, 3].

    Raises:
        ImageError: It is no image, is damaged or cut short, or has more pixels than any photo.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.image_files import decode_image
        >>> decode_image(Path("photos/cat/0.jpg").read_bytes()).shape
        (120, 160, 3)
    """
    file = np.frombuffer(data, np.uint8)
    start = file[:12].tobytes()
    try:
        if start.startswith(_JPEG_START):
            return _native.decode_jpeg(file, max_side=0, min_side=0)
        for name, (accepts, reader) in _READERS.items():
            if accepts(start):
                return _decode_by_pillow(file.data, name, reader)
    except MemoryError as error:
        raise ImageError("there is not enough memory for its pixels") from error
    except RuntimeError as error:  # of the decoder for JPEGs
        raise ImageError(reason_of(error)) from error
    raise ImageError(f"it is none of {', '.join(['JPEG', *_READERS])}" if start else "the file is empty")


def _decode_by_pillow(data: memoryview, name: str, reader: type[ImageFile]) -> NDArray[np.uint8]:
    try:
        with reader(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS or max(width, height) > _MAX_SIDE:
                limits = f"at most {_MAX_PIXELS:,} are read, and {_MAX_SIDE:,} on a side"
                raise ImageError(f"the {name} has {width} x {height} pixels; {limits}")
            return _pixels(image, data)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly everything for damaged files
        raise ImageError(f"the {name} is damaged or of a rare kind: {reason_of(error)}") from error


def _pixels(image: ImageFile, data: memoryview) -> NDArray[np.uint8]:
    """Read the pixels of an image of which so far only the header was read."""
    if isinstance(image, PngImageFile):
        _check_png(data)
    elif isinstance(image, TiffImageFile):
        _check_tiff(image)
        image.getexif()[ExifTags.Base.Orientation] = 1  # Pillow turns images of this format, and no others
    elif isinstance(image, PpmImageFile) and (samples := _wide_samples(image, data)) is not None:
        return samples
    if image.mode.startswith("I"):
        return _rgb_of_grey(_high_bytes(image))
    # A palette with transparency goes through RGBA: Pillow warns about the direct way.
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    return np.array(opaque.convert("RGB"))


def _check_png(data: memoryview) -> None:
    """See that the pixels' checksums are right, which Pillow does not look at."""
    place, kind = len(_PNG_START), b""
    while kind != b"IEND" and place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4]), bytes(data[place + 4 : place + 8])
        begin, place = place + 4, place + 12 + size
        if kind == b"IDAT" and zlib.crc32(data[begin : place - 4]) != int.from_bytes(data[place - 4 : place]):
            raise ImageError("the PNG is damaged or cut short: a checksum of its pixels is wrong")


def _check_tiff(image: TiffImageFile) -> None:
    """Refuse numbers that are no shades of 0 to 255 or 65535, and those that Pillow garbles."""
    if image.mode in ("I", "F"):
        raise ImageError("the TIFF has numbers of 32 bits or with a sign; convert it to 8 or 16 bits")
    if image.tag_v2.get(PLANAR_CONFIGURATION) == _IN_PLANES and max(image.tag_v2.get(BITSPERSAMPLE, (1,))) > 8:
        raise ImageError("the TIFF has planes of more than 8 bits; convert it to 8 bits")


def _high_bytes(image: ImageFile) -> NDArray[np.uint8]:
    """Grey of 16 bits, or 12 in a TIFF, in 8 bits: [height, width]."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits: int = tags.get(BITSPERSAMPLE, (16,))[0]
    high = (np.asarray(image.copy()) >> (bits - 8)).astype(np.uint8)
    # Pillow sees to this where grey has 8 bits.
    return 255 - high if tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO else high


def _wide_samples(image: PpmImageFile, data: memoryview) -> NDArray[np.uint8] | None:
    """The pixels of a PPM of more than 8 bits, of which Pillow would not take the high byte; None for any other."""
    decoder, _, offset, options = image.tile[0]
    if not isinstance(options, tuple) or not decoder.startswith("ppm") or (options[1] or 0) <= 255:
        return None
    if decoder == "ppm_plain":
        raise ImageError("the PPM is text with numbers over 255; convert it to the binary kind")
    (width, height), maximum = image.size, options[1]
    num_channels = len(options[0])
    samples = np.frombuffer(data, ">u2", height * width * num_channels, offset).reshape(height, width, num_channels)
    high = (samples.astype(np.uint32) * 65535 // maximum).clip(max=65535) >> 8
    return _rgb_of_grey(high[:, :, 0].astype(np.uint8)) if num_channels == 1 else high.astype(np.uint8)


def _rgb_of_grey(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)
