"""JPEG files for tests: as Pillow encodes them, taken apart and changed, and kinds that Pillow cannot write."""

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from loaders import _native

APP0, APP1, APP14 = 0xE0, 0xE1, 0xEE
SOF0, SOF1, SOF2, SOF3, SOF5, SOF6 = 0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6
DHT, EOI, SOS, DQT, DRI = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
FRAMES = (SOF0, SOF1, SOF2)
"""The frame headers that decoders know: sequential, extended sequential, progressive."""


# Images and their files


@cache
def sample_photos() -> list[NDArray[np.uint8]]:
    """scikit-learn's two photos, [427, 640, 3]."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


@cache
def photo(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """One of the two photos in this size."""
    image = Image.fromarray(sample_photos()[height % 2])
    return image.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    """The image as Pillow encodes it: 4:2:0 where nothing else is asked for."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def decoded(data: bytes) -> NDArray[np.uint8]:
    """The whole image through torchvision, [h, w, 3]."""
    image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return image.permute(1, 2, 0).contiguous().numpy()


def with_restarts(data: bytes, interval: int = 4) -> bytes:
    return _native.add_restart_markers(array(data), interval)


# A file's parts


class Segment(NamedTuple):
    marker: int
    begin: int
    """Where its marker stands."""
    body: bytes
    """What follows its length."""

    @property
    def end(self) -> int:
        return self.begin + 4 + len(self.body)


def segments(data: bytes) -> Iterator[Segment]:
    """Each segment, to the header of the first scan."""
    marker, end = 0, 2
    while marker != SOS:
        while data[end + 1] == 0xFF:  # fill bytes
            end += 1
        segment = Segment(data[end + 1], end, data[end + 4 : end + 2 + int.from_bytes(data[end + 2 : end + 4])])
        marker, end = segment.marker, segment.end
        yield segment


def find(data: bytes, *markers: int) -> int:
    """Where the first segment of one of these kinds begins."""
    return next(segment.begin for segment in segments(data) if segment.marker in markers)


def bodies(data: bytes, marker: int) -> list[bytes]:
    return [segment.body for segment in segments(data) if segment.marker == marker]


def frame_size(data: bytes) -> tuple[int, int]:
    """Height and width."""
    frame = find(data, *FRAMES)
    return int.from_bytes(data[frame + 5 : frame + 7]), int.from_bytes(data[frame + 7 : frame + 9])


def assembled(parts: dict[int, bytes], scan: bytes) -> bytes:
    """A file of segments by their markers, and the data of one scan."""
    headers = [bytes([0xFF, marker]) + (2 + len(body)).to_bytes(2) + body for marker, body in parts.items()]
    return b"\xff\xd8" + b"".join(headers) + scan + b"\xff\xd9"


# Changed files


def patched(data: bytes, position: int, *values: int) -> bytes:
    return data[:position] + bytes(values) + data[position + len(values) :]


def without(data: bytes, marker: int, first_byte: int | None = None) -> bytes:
    """Cut the segments of a kind, or only those whose first byte is the given one."""
    for segment in reversed(list(segments(data))):
        if segment.marker == marker and first_byte in (None, segment.body[0]):
            data = data[: segment.begin] + data[segment.end :]
    return data


def resampled(data: bytes, factors: int, height: int, width: int) -> bytes:
    """Other sampling factors of the first component, with as many blocks in an MCU: the blocks change their places."""
    frame = find(data, *FRAMES)
    return patched(patched(data, frame + 5, *height.to_bytes(2), *width.to_bytes(2)), frame + 11, factors)


def of_other_process(data: bytes, marker: int) -> bytes:
    return patched(data, find(data, *FRAMES) + 1, marker)


def with_adobe_transform(data: bytes, transform: int) -> bytes:
    """Without a JFIF marker, and with an Adobe marker that says how its colours were transformed."""
    marker = bytes([0xFF, APP14, 0, 14]) + b"Adobe\0\x64" + bytes(4) + bytes([transform])
    data = without(data, APP0)
    return data[:2] + marker + data[2:]


def with_16_bit_tables(data: bytes) -> bytes:
    """Quantization tables with two bytes a number, as only an extended file may have them."""
    for segment in reversed(list(segments(data))):
        if segment.marker != DQT:
            continue
        body = b""
        for at in range(0, len(segment.body), 65):
            number, table = segment.body[at], segment.body[at + 1 : at + 65]
            body += bytes([0x10 | number]) + b"".join(value.to_bytes(2) for value in table)
        header = bytes([0xFF, DQT]) + (2 + len(body)).to_bytes(2)
        data = data[: segment.begin] + header + body + data[segment.end :]
    return of_other_process(data, SOF1)


def with_fill_bytes(data: bytes) -> bytes:
    """A marker may begin with any number of FF."""
    for segment in reversed(list(segments(data))):
        data = data[: segment.begin] + b"\xff" * 3 + data[segment.begin :]
    return data[:-2] + b"\xff" * 3 + data[-2:]


def first_scans(data: bytes, count: int) -> bytes:
    """So many scans of a progressive file, and an end marker: what a converter left when it was stopped."""
    end = 0
    for _ in range(count + 1):
        end = data.index(b"\xff\xda", end + 1)
    return data[:end] + b"\xff\xd9"


def grey_in_2x2(height: int, width: int) -> bytes:
    """Sampling factors of a single component, which mean nothing."""
    data = jpeg(photo(height, width, "L"))
    return patched(data, find(data, *FRAMES) + 11, 0x22)


def cmyk(height: int, width: int, transform: int) -> bytes:
    """A CMYK file whose Adobe marker says how its colours were transformed."""
    data = jpeg(photo(height, width, "CMYK"))
    return patched(data, find(data, APP14) + 15, transform)


def named_rgb(data: bytes) -> bytes:
    """Without a marker that tells the colours, components of these names are red, green and blue."""
    data = without(data, APP0)
    frame, scan = find(data, *FRAMES), find(data, SOS)
    for number, name in enumerate(b"RGB"):
        data = patched(patched(data, frame + 10 + 3 * number, name), scan + 5 + 2 * number, name)
    return data


# Files that Pillow cannot write


def sampled(image: Image.Image, *factors: int) -> bytes:
    """Any sampling factors of the three components, a scan for each."""
    widest, tallest = max(factor >> 4 for factor in factors), max(factor & 15 for factor in factors)
    sizes = [
        (-(-image.width * (factor >> 4) // widest), -(-image.height * (factor & 15) // tallest)) for factor in factors
    ]
    planes = [plane.resize(size) for plane, size in zip(image.convert("YCbCr").split(), sizes, strict=True)]
    data = in_scans(planes, factors)
    frame = find(data, *FRAMES)
    return patched(data, frame + 5, *image.height.to_bytes(2), *image.width.to_bytes(2))


def in_scans(planes: Sequence[Image.Image], factors: Sequence[int] = (0x11, 0x11, 0x11)) -> bytes:
    """A sequential JPEG with a scan for each component: grey ones behind a frame header for all of them."""
    encoded = [jpeg(plane) for plane in planes]
    first, count = encoded[0], len(encoded)
    frame, scan = find(first, *FRAMES), find(first, SOS)
    components = b"".join(bytes([number, factors[number - 1], 0]) for number in range(1, count + 1))
    header = bytes([0xFF, SOF0, 0, 8 + 3 * count]) + first[frame + 4 : frame + 9] + bytes([count]) + components
    scans = [
        b"\xff\xda\x00\x08\x01" + bytes([number]) + data[find(data, SOS) + 6 : -2]
        for number, data in enumerate(encoded, 1)
    ]
    return first[:frame] + header + first[frame + 13 : scan] + b"".join(scans) + b"\xff\xd9"


def lossless(height: int, width: int, precision: int) -> bytes:
    """RGB, grey in the middle everywhere: each sample is as predicted, which one code says, a single 0."""
    frame = bytes([precision]) + height.to_bytes(2) + width.to_bytes(2) + b"\x03R\x11\x00G\x11\x00B\x11\x00"
    table = b"\x00" + b"\x01" + bytes(15) + b"\x00"
    scan = b"\x03R\x00G\x00B\x00\x01\x00\x00"  # predicted from the left
    return assembled({SOF3: frame, DHT: table, SOS: scan}, bytes(-(-3 * height * width // 8)))
