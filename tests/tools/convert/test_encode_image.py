import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tools.convert.encode_image import Chroma, ImageEncoder, Mode, StoredImage, Treatment, read_jpeg_header


def photo(width: int = 90, height: int = 60) -> Image.Image:
    return Image.fromarray(load_sample_images().images[1][200 : 200 + height, 200 : 200 + width])


def file(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def encode(data: bytes | np.ndarray, mode: Mode, *, name: str = "a/1.JPEG", **options: object) -> StoredImage:
    return ImageEncoder(mode=mode, **options).encode(data, name=name)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def num_restart_markers(data: bytes) -> int:
    return sum(data.count(bytes([0xFF, 0xD0 + number])) for number in range(8))


def chroma_of(data: bytes) -> tuple[int, ...]:
    """The sampling factors that the frame header names."""
    frame = data.index(b"\xff\xc0")
    return tuple(data[frame + 11 : frame + 20 : 3])


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
    assert encode(data, "keep", max_side=90, min_side=60) == (data, "jpg", 60, 90, Treatment.KEPT)
    assert read_jpeg_header(data) == (60, 90, len(Image.open(io.BytesIO(data)).getbands()))


@pytest.mark.parametrize("mode", ["keep", "restart", "reencode", "raw"])
@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_every_truncation_is_found(data: bytes, mode: Mode):
    end = data.rindex(b"\xff\xd9") + 2
    for length in [*range(3, end - 1, 13), end - 1]:
        with pytest.raises((ValueError, RuntimeError), match=r"cut short|end of input file|Premature end|corrupt"):
            encode(data[:length], mode)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, b"\xc3", "SOF type 0xc3"),
        (1, b"\xd9", "no image"),
        (1, b"\xfe", "SOS before SOF"),
        (4, b"\x0c", "precision 12"),
        (5, b"\0\0", "Empty JPEG image"),
        (7, b"\0\0", "Empty JPEG image"),
        (7, b"\xff\xff", "65500 pixels"),
    ],
)
def test_keep_refuses_headers_that_decoders_refuse(position: int, value: bytes, message: str):
    data = bytearray(JPEGS["4:2:0"])
    start = data.index(b"\xff\xc0") + position
    data[start : start + len(value)] = value
    for mode in ("keep", "restart", "reencode"):
        with pytest.raises(RuntimeError, match=message):
            encode(bytes(data), mode)


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_restart_keeps_every_pixel(data: bytes):
    image = encode(data, "restart", max_side=90)
    assert image[1:] == ("jpg", 60, 90, Treatment.REWRITTEN)
    np.testing.assert_array_equal(decoded(image.data), decoded(data))
    assert num_restart_markers(image.data) >= 5
    assert b"a comment" not in image.data
    assert b"Exif" not in image.data
    again = encode(image.data, "restart").data
    assert encode(again, "restart").data == again


CONVERTED = {
    "cmyk": file(photo().convert("CMYK")),
    "png": file(photo(), "PNG"),
    "grey png": file(photo().convert("L"), "PNG"),
    "alpha": file(photo().convert("RGBA"), "PNG"),
    "palette": file(photo().quantize(8), "PNG", transparency=bytes(range(8))),
    "webp": file(photo(), "WEBP"),
    "tiff": file(photo(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("mode", ["keep", "restart"])
@pytest.mark.parametrize("data", CONVERTED.values(), ids=CONVERTED)
def test_what_is_no_rgb_jpeg_is_converted(data: bytes, mode: Mode):
    image = encode(data, mode, jpeg_quality=95)
    assert image[1:] == ("jpg", 60, 90, Treatment.CONVERTED)
    found = Image.open(io.BytesIO(image.data))
    assert (found.format, found.mode, found.size) == ("JPEG", "RGB", (90, 60))
    original = Image.open(io.BytesIO(data))
    expected = (original.convert("RGBA") if "transparency" in original.info else original).convert("RGB")
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).mean() < 6


@pytest.mark.parametrize(
    "data", [JPEGS["grey"], JPEGS["4:4:4"], CONVERTED["cmyk"], CONVERTED["png"], CONVERTED["palette"]]
)
def test_raw_and_png_store_the_decoded_pixels(data: bytes):
    image = encode(data, "raw")
    assert image[1:] == ("raw", 60, 90, Treatment.DECODED)
    assert image.data.flags.c_contiguous
    original = Image.open(io.BytesIO(data))
    expected = (original.convert("RGBA") if "transparency" in original.info else original).convert("RGB")
    assert np.abs(image.data.astype(int) - np.asarray(expected)).max() <= 1  # CMYK is rounded in another way
    lossless = encode(data, "png")
    assert lossless[1:] == ("png", 60, 90, Treatment.DECODED)
    assert Image.open(io.BytesIO(lossless.data)).format == "PNG"
    np.testing.assert_array_equal(decoded(lossless.data), image.data)


def test_of_16_bits_the_high_byte_is_stored():
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    image = encode(file(Image.fromarray(ramp), "PNG"), "raw")
    np.testing.assert_array_equal(image.data, np.repeat((ramp >> 8)[:, :, None], 3, 2))


def test_pixels_are_kept_raw_or_encoded():
    pixels = np.asarray(photo())
    image = encode(pixels, "raw")
    assert image[1:] == ("raw", 60, 90, Treatment.KEPT)
    np.testing.assert_array_equal(image.data, pixels)
    lossless = encode(pixels, "png")
    assert lossless[1:] == ("png", 60, 90, Treatment.KEPT)
    np.testing.assert_array_equal(decoded(lossless.data), pixels)
    image = encode(pixels, "reencode", jpeg_quality=70)
    assert image[1:] == ("jpg", 60, 90, Treatment.REENCODED)
    np.testing.assert_array_equal(decoded(image.data), decoded(file(photo(), quality=70, subsampling=2)))


def test_reencode_follows_the_quality_and_drops_the_rest_of_the_file():
    sizes = []
    for quality in (30, 60, 90):
        image = encode(JPEGS["comment"], "reencode", jpeg_quality=quality)
        assert image.treatment is Treatment.REENCODED
        assert b"a comment" not in image.data
        assert num_restart_markers(image.data) >= 5
        sizes.append(len(image.data))
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("chroma", "factors"), [("4:4:4", 0x11), ("4:2:2", 0x21), ("4:2:0", 0x22)])
def test_reencode_follows_the_chroma(chroma: Chroma, factors: int):
    for data in (
        JPEGS["4:2:0"],
        JPEGS["4:4:4"],
        JPEGS["grey"],
        CONVERTED["png"],
        CONVERTED["cmyk"],
        np.asarray(photo()),
    ):
        assert chroma_of(encode(data, "reencode", chroma=chroma).data) == (factors, 0x11, 0x11)


@pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS)
def test_reencode_changes_little(data: bytes):
    image = encode(data, "reencode", jpeg_quality=95, chroma="4:4:4")
    assert psnr(decoded(image.data), decoded(data)) > 40


@pytest.mark.parametrize("mode", ["keep", "restart", "reencode", "raw", "png"])
@pytest.mark.parametrize(
    ("size", "max_side", "min_side", "expected"),
    [
        ((90, 60), 45, None, (45, 30)),
        ((60, 90), 45, None, (30, 45)),
        ((90, 1), 45, None, (45, 1)),
        ((90, 60), None, 30, (45, 30)),
        ((90, 60), 89, 30, (45, 30)),
        ((90, 60), 30, 59, (30, 20)),
        ((90, 60), 90, 59, (88, 59)),
    ],
)
def test_larger_images_are_shrunk(mode: Mode, size, max_side: int | None, min_side: int | None, expected):
    for data in (file(photo(*size)), file(photo(*size), "PNG"), np.asarray(photo(*size))):
        image = encode(data, mode, max_side=max_side, min_side=min_side)
        assert image.treatment is Treatment.RESIZED
        assert (image.width, image.height) == expected
        if mode == "raw":
            assert image.data.shape == (expected[1], expected[0], 3)
        else:
            assert Image.open(io.BytesIO(image.data)).size == expected


@pytest.mark.parametrize("max_side", [300, 150, 100, 60])
def test_shrunk_photos_look_as_by_pillow(max_side: int):
    image = photo(300, 200)
    for data in (file(image, quality=98, subsampling=0), file(image, "PNG")):
        found = encode(data, "reencode", max_side=max_side, jpeg_quality=98, chroma="4:4:4")
        expected = image.resize((found.width, found.height), Image.Resampling.BILINEAR)
        assert psnr(decoded(found.data), np.asarray(expected)) > 34


def test_mixed_chooses_by_name_alone():
    names = [f"n{number % 7}/{number}.JPEG" for number in range(1000)]
    pixels = np.zeros((2, 2, 3), np.uint8)
    for fraction in (0.0, 0.25, 0.5, 1.0):
        formats = [encode(pixels, "mixed", name=name, raw_fraction=fraction).format for name in names]
        assert formats.count("raw") / 1000 == pytest.approx(fraction, abs=0.05 if 0 < fraction < 1 else 0)
        again = [encode(JPEGS["grey"], "mixed", name=name, raw_fraction=fraction).format for name in names[:20]]
        assert again == formats[:20]
    assert encode(pixels, "mixed", name="\udcff", raw_fraction=1).format == "raw"  # bytes that are no UTF-8


def test_shrinking_antialiases():
    """Stripes a pixel wide become grey, not stripes of another width."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image = encode(stripes, "raw", max_side=16)
    assert np.ptp(image.data[:, 2:-2].astype(int)) < 10
    assert abs(image.data.mean() - 127.5) < 5


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for mode in ("keep", "restart", "reencode", "raw", "png"):
        image = encode(file(photo(), exif=exif), mode)
        assert (image.width, image.height) == (90, 60)
        assert b"Exif" not in bytes(image.data) or mode == "keep"


def large_bmp() -> bytes:
    """A file that claims to be much larger than it is."""
    data = file(photo(), "BMP")
    return data[:18] + (60_000).to_bytes(4, "little") * 2 + data[26:]


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"no image", "it is none of JPEG, PNG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none of JPEG, PNG"),
    "32 bits": (file(Image.fromarray(np.full((4, 4), 40_000, np.int32)), "TIFF"), "32 bits or with a sign"),
    "cut png": (CONVERTED["png"][:2000], "cut short"),
    "cut webp": (CONVERTED["webp"][:100], "."),
    "bomb": (large_bmp(), "60000 x 60000 pixels"),
    "damaged png": (CONVERTED["png"][:40] + b"\xff" * 8 + CONVERTED["png"][48:], "."),
}


@pytest.mark.parametrize("mode", ["keep", "restart", "reencode", "raw", "png"])
@pytest.mark.parametrize(("data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_cannot_be_decoded(data: bytes, message: str, mode: Mode):
    with pytest.raises((ValueError, OSError), match=message):
        encode(data, mode)


@pytest.mark.skipif("FASTVIT_DATA" not in os.environ, reason="FASTVIT_DATA names no folder of photos")
def test_headers_of_real_photos():
    files = sorted(Path(os.environ["FASTVIT_DATA"], "imagenet_sample", "train").glob("*/*"))
    assert files
    for path in files:
        with Image.open(path) as image:
            assert read_jpeg_header(path.read_bytes()) == (image.height, image.width, len(image.getbands()))
