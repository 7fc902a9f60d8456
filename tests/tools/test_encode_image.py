import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from loaders.beton import EncodedImage, ImageMode
from tools.encode_image import ImageEncoder, Mode, Treatment, read_jpeg_header


def photo(width: int = 90, height: int = 60) -> Image.Image:
    return Image.fromarray(load_sample_images().images[1][200 : 200 + height, 200 : 200 + width])


def file(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def encode(
    data: bytes | np.ndarray, mode: Mode, *, max_side: int | None = None, jpeg_quality: int = 90
) -> tuple[EncodedImage, Treatment]:
    return ImageEncoder(mode=mode, max_side=max_side, jpeg_quality=jpeg_quality).encode(data)


def exif_with_thumbnail() -> bytes:
    """An APP1 segment that holds a whole small JPEG, end marker included."""
    body = b"Exif\0\0" + file(photo(16, 16))
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2) + body


JPEGS = {
    "4:2:0": file(photo()),
    "4:4:4": file(photo(), subsampling=0, quality=100),
    "progressive": file(photo(), progressive=True),
    "grey": file(photo().convert("L")),
    "restart markers": file(photo(), restart_marker_blocks=2),
    "comment": file(photo(), comment=b"\xff\xd8 a comment \xff\xd9 " * 50),
    "thumbnail": b"\xff\xd8" + exif_with_thumbnail() + file(photo())[2:],
    "fill bytes": file(photo())[:2] + b"\xff\xff" + file(photo())[2:],
    "trailing bytes": file(photo()) + b"appended by a camera" * 100,
}


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_keep_leaves_jpeg_files_alone(data: bytes):
    image, treatment = encode(data, "keep", max_side=90)
    assert treatment is Treatment.KEPT
    assert image == EncodedImage(data, ImageMode.JPG, 60, 90)
    assert read_jpeg_header(data).num_components == len(Image.open(io.BytesIO(data)).getbands())


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_keep_finds_every_truncation(data: bytes):
    end = data.rindex(b"\xff\xd9") + 2
    for length in [*range(3, end - 1, 13), end - 1]:
        with pytest.raises(ValueError, match=r"cut short|no frame header"):
            encode(data[:length], "keep")


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, b"\xc3", "marker 0xC3.*lossless"),
        (1, b"\xd9", "marker 0xD9.*damaged"),
        (1, b"\xfe", "no frame header"),
        (4, b"\x0c", "60 x 90 pixels and 12 bits cannot be decoded"),
        (5, b"\0\0", "0 x 90 pixels"),
        (7, b"\0\0", "60 x 0 pixels"),
    ],
)
def test_keep_refuses_headers_that_decoders_refuse(position: int, value: bytes, message: str):
    data = bytearray(JPEGS["4:2:0"])
    start = data.index(b"\xff\xc0") + position
    data[start : start + len(value)] = value
    with pytest.raises(ValueError, match=message):
        encode(bytes(data), "keep")


CONVERTED = {
    "cmyk": file(photo().convert("CMYK")),
    "png": file(photo(), "PNG"),
    "grey png": file(photo().convert("L"), "PNG"),
    "alpha": file(photo().convert("RGBA"), "PNG"),
    "palette": file(photo().quantize(8), "PNG", transparency=bytes(range(8))),
    "webp": file(photo(), "WEBP"),
}


@pytest.mark.parametrize("data", CONVERTED.values(), ids=CONVERTED)
def test_keep_converts_what_is_no_rgb_jpeg(data: bytes):
    image, treatment = encode(data, "keep", jpeg_quality=95)
    assert treatment is Treatment.CONVERTED
    assert image[1:] == (ImageMode.JPG, 60, 90)
    decoded = Image.open(io.BytesIO(image.data))
    assert (decoded.format, decoded.mode, decoded.size) == ("JPEG", "RGB", (90, 60))
    original = Image.open(io.BytesIO(data))
    expected = (original.convert("RGBA") if "transparency" in original.info else original).convert("RGB")
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(expected)).mean() < 6


@pytest.mark.parametrize("data", [JPEGS["grey"], JPEGS["4:4:4"], CONVERTED["cmyk"], CONVERTED["png"]])
def test_raw_stores_the_decoded_pixels(data: bytes):
    image, treatment = encode(data, "raw")
    assert treatment is Treatment.DECODED
    assert image[1:] == (ImageMode.RAW, 60, 90)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(image.data, expected)


def test_pixels_are_kept_raw_or_encoded():
    pixels = np.asarray(photo())
    image, treatment = encode(pixels, "raw")
    assert treatment is Treatment.KEPT
    np.testing.assert_array_equal(image.data, pixels)
    image, treatment = encode(pixels, "reencode", jpeg_quality=70)
    assert treatment is Treatment.REENCODED
    assert bytes(image.data) == file(photo(), quality=70)


def test_reencode_follows_the_quality_and_drops_the_rest_of_the_file():
    sizes = []
    for quality in (30, 60, 90):
        image, treatment = encode(JPEGS["comment"], "reencode", jpeg_quality=quality)
        assert treatment is Treatment.REENCODED
        assert b"a comment" not in bytes(image.data)
        sizes.append(len(image.data))
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("mode", ["keep", "reencode", "raw"])
@pytest.mark.parametrize(("size", "expected"), [((90, 60), (45, 30)), ((60, 90), (30, 45)), ((90, 1), (45, 1))])
def test_larger_images_are_shrunk(mode: Mode, size: tuple[int, int], expected: tuple[int, int]):
    image, treatment = encode(file(photo(*size)), mode, max_side=45)
    assert treatment is Treatment.RESIZED
    assert (image.width, image.height) == expected
    if mode == "raw":
        assert image.data.shape == (expected[1], expected[0], 3)
    else:
        assert Image.open(io.BytesIO(image.data)).size == expected


def test_shrinking_antialiases():
    """Stripes a pixel wide become grey, not stripes of another width."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = encode(stripes, "raw", max_side=16)
    assert np.ptp(image.data[:, 2:-2].astype(int)) < 10
    assert abs(image.data.mean() - 127.5) < 5


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for mode in ("keep", "reencode", "raw"):
        image, _ = encode(file(photo(), exif=exif), mode)
        assert (image.width, image.height) == (90, 60)
        assert b"Exif" not in bytes(image.data) or mode == "keep"


BAD_FILES = {
    "empty": (b"", "it is none of JPEG, PNG"),
    "text": (b"no image", "it is none of JPEG, PNG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none of JPEG, PNG"),
    "16 bits": (file(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG"), "more than 8 bits"),
    "cut png": (CONVERTED["png"][:2000], "truncated"),
    "cut webp": (CONVERTED["webp"][:100], "."),
}


@pytest.mark.parametrize("mode", ["keep", "reencode", "raw"])
@pytest.mark.parametrize(("data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_cannot_be_decoded(data: bytes, message: str, mode: Mode):
    with pytest.raises((ValueError, OSError), match=message):
        encode(data, mode)


@pytest.mark.parametrize("mode", ["reencode", "raw"])
def test_a_jpeg_that_is_cut_short_is_not_decoded(mode: Mode):
    with pytest.raises(OSError, match="truncated"):
        encode(JPEGS["4:2:0"][:-200], mode)


@pytest.mark.skipif("FASTVIT_DATA" not in os.environ, reason="FASTVIT_DATA names no folder of photos")
def test_headers_of_real_photos():
    files = sorted(Path(os.environ["FASTVIT_DATA"], "imagenet_sample", "train").glob("*/*"))
    assert files
    for path in files:
        header = read_jpeg_header(path.read_bytes())
        with Image.open(path) as image:
            assert (header.width, header.height, header.num_components) == (*image.size, len(image.getbands()))
