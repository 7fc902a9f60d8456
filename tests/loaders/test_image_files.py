"""Image files of every format: the pixels that Pillow has, 16 bits by their high byte, and a reason for all damage."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jpeg_builders import FRAMES, array, find, in_scans, jpeg, patched, photo
from loaders import _native
from loaders.image_files import IMAGE_EXTENSIONS, ImageError, decode_image

HEIGHT, WIDTH = 29, 43
PNG_START = b"\x89PNG\r\n\x1a\n"

# Pillow warns of cut EXIF data, which every TIFF has.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    return photo(HEIGHT, WIDTH).quantize(16) if mode == "P" else photo(HEIGHT, WIDTH, mode)


def animated(kind: str, **options: object) -> bytes:
    return saved(picture(), kind, save_all=True, append_images=[picture().rotate(180)], **options)


def rgb_by_pillow(data: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data))
    return np.asarray((image.convert("RGBA") if "transparency" in image.info else image).convert("RGB"))


LOSSLESS = {
    "png": lambda: saved(picture(), "PNG"),
    "png, grey": lambda: saved(picture("L"), "PNG"),
    "png, 1 bit": lambda: saved(picture("1"), "PNG"),
    "png, alpha": lambda: saved(picture("RGBA"), "PNG"),
    "png, grey and alpha": lambda: saved(picture("LA"), "PNG"),
    "png, palette": lambda: saved(picture("P"), "PNG"),
    "png, palette with a transparent colour": lambda: saved(picture("P"), "PNG", transparency=3),
    "png, palette with alpha": lambda: saved(picture("P"), "PNG", transparency=bytes(range(0, 256, 16))),
    "png, RGB with a transparent colour": lambda: saved(picture(), "PNG", transparency=(1, 2, 3)),
    "png, animated": lambda: animated("PNG"),
    "webp": lambda: saved(picture(), "WEBP"),
    "webp, lossless": lambda: saved(picture("RGBA"), "WEBP", lossless=True),
    "webp, animated": lambda: animated("WEBP", lossless=True),
    "gif": lambda: saved(picture("P"), "GIF"),
    "gif, with a transparent colour": lambda: saved(picture("P"), "GIF", transparency=3),
    "gif, animated": lambda: animated("GIF"),
    "bmp": lambda: saved(picture(), "BMP"),
    "bmp, palette": lambda: saved(picture("P"), "BMP"),
    "tiff": lambda: saved(picture(), "TIFF"),
    "tiff, grey": lambda: saved(picture("L"), "TIFF"),
    "tiff, LZW": lambda: saved(picture(), "TIFF", compression="tiff_lzw"),
    "tiff, fax": lambda: saved(picture("1"), "TIFF", compression="group4"),
    "tiff, CMYK": lambda: saved(picture("CMYK"), "TIFF"),
    "tiff, two pages": lambda: animated("TIFF"),
    "ppm": lambda: saved(picture(), "PPM"),
    "pgm": lambda: saved(picture("L"), "PPM"),
    "pbm": lambda: saved(picture("1"), "PPM"),
    "ppm, text": lambda: b"P3 2 1 255 1 2 3 4 5 6\n",
    "pbm, text": lambda: b"P1 3 1 1 0 1\n",
}


@pytest.mark.parametrize("make", LOSSLESS.values(), ids=LOSSLESS)
def test_every_format_has_the_pixels_that_pillow_reads(make: Callable[[], bytes]):
    data = make()
    for content in (data, array(data)):
        pixels = decode_image(content)
        assert (pixels.dtype, pixels.flags.c_contiguous, pixels.flags.writeable) == (np.uint8, True, True)
        np.testing.assert_array_equal(pixels, rgb_by_pillow(data))


@pytest.mark.parametrize("extension", IMAGE_EXTENSIONS)
def test_what_is_listed_can_be_decoded(extension: str):
    kinds = {".jpe": "JPEG", ".jfif": "JPEG", ".pbm": "PPM", ".pnm": "PPM"}
    kind = kinds.get(extension) or Image.registered_extensions()[extension]
    data = saved(picture("1" if extension == ".pbm" else "RGB"), kind)
    assert decode_image(data).shape == (HEIGHT, WIDTH, 3)


# 16 bits

WIDE = np.arange(0, 65536, 47, dtype=np.uint16)[:1386].reshape(33, 42)
WIDE_RGB = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1]], 2)


def wide_png(colour_type: int, rows: NDArray[np.uint16], *more: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    chunks = [(b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b"")]
    return PNG_START + b"".join(chunk(*one) for one in chunks)


def plain_tiff(samples: NDArray[np.generic], *, order: str = "<", photometric: int = 2, **tags: int) -> bytes:
    """Pixels [h, w, channels] of any type; or with planar=2, [channels, h, w]."""
    planar = tags.get("planar", 1)
    num_channels = samples.shape[0 if planar == 2 else 2]
    height, width = samples.shape[1:] if planar == 2 else samples.shape[:2]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    num_strips = num_channels if planar == 2 else 1
    start, size = 400, len(data) // num_strips
    bits = 8 * samples.dtype.itemsize
    arrays: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [tags.get("bits", bits)] * num_channels,
        259: [1],
        262: [photometric],
        273: [start + size * number for number in range(num_strips)],
        277: [num_channels],
        278: [height],
        279: [size] * num_strips,
        284: [planar],
        339: [tags.get("sample_format", 1)] * num_channels,
    }
    directory, outside = struct.pack(f"{order}H", len(arrays)), b""
    for tag, values in arrays.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", 8 + 2 + 12 * len(arrays) + 4 + len(outside))
            outside += packed
        else:
            place = packed
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + place
    file = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + directory + bytes(4) + outside
    return file.ljust(start, b"\0") + data


def high(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    bytes_ = (samples >> 8).astype(np.uint8)
    return np.repeat(bytes_[:, :, None], 3, 2) if samples.ndim == 2 else bytes_


GREY, RGB = WIDE[:, :, None], WIDE_RGB
WIDE_FILES = {
    "png, grey": (lambda: saved(Image.fromarray(WIDE), "PNG"), high(WIDE)),
    "png, grey, transparent": (lambda: wide_png(0, WIDE, (b"tRNS", b"\0\x09")), high(WIDE)),
    "png, RGB": (lambda: wide_png(2, WIDE_RGB), high(WIDE_RGB)),
    "png, RGB and alpha": (lambda: wide_png(6, np.dstack([WIDE_RGB, WIDE])), high(WIDE_RGB)),
    "png, grey and alpha": (lambda: wide_png(4, np.dstack([WIDE, WIDE])), high(WIDE)),
    "tiff, grey": (lambda: saved(Image.fromarray(WIDE), "TIFF"), high(WIDE)),
    "tiff, grey, LZW": (lambda: saved(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"), high(WIDE)),
    "tiff, grey, on its side": (lambda: saved(Image.fromarray(WIDE), "TIFF", tiffinfo={274: 6}), high(WIDE)),
    "tiff, grey, big-endian": (lambda: plain_tiff(GREY, order=">", photometric=1), high(WIDE)),
    "tiff, grey, white is 0": (lambda: plain_tiff(GREY, photometric=0), 255 - high(WIDE)),
    "tiff, RGB": (lambda: plain_tiff(RGB), high(WIDE_RGB)),
    "tiff, RGB, big-endian": (lambda: plain_tiff(RGB, order=">"), high(WIDE_RGB)),
    "pgm": (lambda: b"P5 42 33 65535\n" + WIDE.astype(">u2").tobytes(), high(WIDE)),
    "ppm": (lambda: b"P6 42 33 65535\n" + WIDE_RGB.astype(">u2").tobytes(), high(WIDE_RGB)),
    "ppm, 10 bits": (lambda: b"P6 42 33 1023\n" + (WIDE_RGB >> 6).astype(">u2").tobytes(), high(WIDE_RGB)),
    "pgm, 10 bits": (lambda: b"P5 42 33 1023\n" + (WIDE >> 6).astype(">u2").tobytes(), high(WIDE)),
}


@pytest.mark.parametrize(("make", "expected"), WIDE_FILES.values(), ids=WIDE_FILES)
def test_of_16_bits_the_high_byte_is_taken(make: Callable[[], bytes], expected: NDArray[np.uint8]):
    pixels = decode_image(make())
    np.testing.assert_array_equal(pixels, expected)
    assert np.ptp(pixels) > 250


def test_12_bits_of_a_tiff():
    pairs = bytes([0x00, 0x01, 0xFF, 0x80, 0x0F, 0xFF])  # 000 1FF 800 FFF
    data = plain_tiff(np.frombuffer(pairs, np.uint8).reshape(1, 6, 1), photometric=1, bits=12)
    data = data.replace(struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4))
    assert decode_image(data)[0, :, 0].tolist() == [0x00, 0x1F, 0x80, 0xFF]


REFUSED = {
    "32 bits": (lambda: plain_tiff(GREY.astype(np.uint32), photometric=1), "32 bits or with a sign"),
    "with a sign": (lambda: plain_tiff(GREY, photometric=1, sample_format=2), "32 bits or with a sign"),
    "floats": (lambda: saved(picture("F"), "TIFF"), "32 bits or with a sign"),
    "16 bits in planes": (lambda: plain_tiff(RGB.transpose(2, 0, 1), planar=2), "planes of more than 8 bits"),
    "text of more than 8 bits": (lambda: b"P2 2 1 1023 9 1023\n", "text with numbers over 255"),
    "an empty file": (lambda: b"", "the file is empty"),
    "a page of HTML": (lambda: b"<!DOCTYPE html><html>", "none of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of JPEG, PNG"),
    "AVIF": (lambda: b"\0\0\0 ftypavif\0\0\0\0avifmif1", "none of JPEG, PNG"),
    "another RIFF": (lambda: b"RIFF\x10\0\0\0WAVEfmt ", "none of JPEG, PNG"),
    "a start without an image": (lambda: PNG_START, "the PNG is damaged or of a rare kind"),
    "a JPEG of 12 bits": (lambda: patched(jpeg(picture()), find(jpeg(picture()), *FRAMES) + 4, 12), "precision 12"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_called_by_name(make: Callable[[], bytes], reason: str):
    with pytest.raises(ImageError, match=reason) as refused:
        decode_image(make())
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_orientation_is_ignored(compression: str | None, orientation: int):
    plain, turned = (saved(picture(), "TIFF", compression=compression, tiffinfo={274: tag}) for tag in (1, orientation))
    np.testing.assert_array_equal(decode_image(turned), decode_image(plain))


# Damage


def test_a_flipped_bit_anywhere_in_the_pixels_of_a_png():
    data = LOSSLESS["png"]()
    begin, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    for place in range(begin, end, 37):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ImageError, match="the PNG is damaged"):
            decode_image(bytes(damaged))


CUT = {kind: make for kind, make in LOSSLESS.items() if "text" not in kind} | {  # a number may lose its last digit
    "jpeg": lambda: jpeg(picture()),
    "jpeg, progressive": lambda: jpeg(picture(), progressive=True),
}


@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_a_cut_file_is_refused_unless_all_pixels_are_there(make: Callable[[], bytes]):
    data = make()
    whole = decode_image(data)
    num_refused = 0
    for length in [*range(0, len(data), 97), *range(max(0, len(data) - 30), len(data))]:
        try:
            np.testing.assert_array_equal(decode_image(data[:length]), whole)
        except ImageError:
            num_refused += 1
    assert num_refused > 0


# JPEGs without an end marker


def before_each_scan(data: bytes) -> list[bytes]:
    """A JPEG cut before each of its scans, and whole but for its end marker."""
    starts = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    return [data[:start] for start in starts] + [data[:-2]]


@pytest.mark.parametrize("tail", [b"", b"\xff", b"trailer of a camera"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 2}, {"progressive": True}])
def test_a_jpeg_may_lack_its_end_marker(options: dict[str, object], tail: bytes):
    data = jpeg(picture(), **options)
    assert data.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(decode_image(data[:-2] + tail), decode_image(data))


def test_of_a_progressive_jpeg_without_an_end_marker_no_scan_may_be_missing():
    """With one, it is an image of less detail, as some browsers show it while it comes."""
    *cut, whole = before_each_scan(jpeg(picture(), progressive=True))
    assert len(cut) > 5
    for shorter, longer in pairwise([*cut, whole]):
        with pytest.raises(ImageError, match="Premature end"):
            decode_image(shorter)
        assert len(shorter) < len(longer)
    for data in cut[1:]:
        assert decode_image(data + b"\xff\xd9").shape == (HEIGHT, WIDTH, 3)


def test_no_component_may_be_missing():
    """Of a sequential image with a scan for each component."""
    data = in_scans(photo(HEIGHT, WIDTH).split())
    *cut, whole = before_each_scan(data)
    np.testing.assert_array_equal(decode_image(whole), decode_image(data))
    for shorter in cut:
        with pytest.raises(ImageError):
            decode_image(shorter)


# Sizes that no photo has


def large(kind: str, width: int, height: int) -> bytes:
    """A small file that claims this size."""
    match kind:
        case "PNG":
            small, place, order = saved(picture("1"), "PNG"), 16, ">II"
        case "GIF":
            small, place, order = saved(picture("P"), "GIF"), 6, "<HH"
        case "BMP":
            small, place, order = saved(picture(), "BMP"), 18, "<ii"
        case "TIFF":
            data = plain_tiff(GREY, photometric=1)
            for tag, side in ((256, width), (257, height)):
                start = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
                data = data[:start] + struct.pack("<I", side) + data[start + 4 :]
            return data
        case "PPM":
            return b"P6 %d %d 255\n" % (width, height)
        case "WebP":
            data = bytearray(animated("WEBP"))
            start = data.index(b"VP8X") + 12
            data[start : start + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
            return bytes(data)
        case _:
            data = jpeg(picture(), progressive=kind == "progressive")
            return patched(data, find(data, *FRAMES) + 5, *height.to_bytes(2), *width.to_bytes(2))
    sides = struct.pack(order, width, height)
    data = small[:place] + sides + small[place + len(sides) :]
    if kind == "PNG":
        data = data[:29] + zlib.crc32(data[12:29]).to_bytes(4) + data[33:]
    return data


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM", "WebP", "JPEG", "progressive"])
def test_more_pixels_than_any_photo_has(kind: str):
    reason = "20000 x 20000 pixels|400000000 pixels"
    if kind in ("JPEG", "progressive"):
        with pytest.raises(ImageError, match="its pixels would take more than 4 GiB|Backing store not supported"):
            decode_image(large(kind, 60_000, 60_000))
        reason = "premature end"  # so many are allowed, but not there
    with pytest.raises(ImageError, match=reason):
        decode_image(large(kind, 20_000, 20_000))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_side_longer_than_a_jpeg_may_have(kind: str):
    with pytest.raises(ImageError, match="has 70000 x 9 pixels; at most .* are read, and 65,535 on a side"):
        decode_image(large(kind, 70_000, 9))


MEMORY = r"""
import re, sys
from pathlib import Path
from loaders.image_files import ImageError, decode_image
def peak():  # KB
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
try:
    decode_image(sys.stdin.buffer.read())
except ImageError:
    print(peak() - before)
"""


def cut_jpeg() -> bytes:
    """Of 20,000 rows there are 32."""
    data = jpeg(Image.new("RGB", (20_000, 32)))
    return patched(data, find(data, *FRAMES) + 5, *(20_000).to_bytes(2))


@pytest.mark.parametrize("make", [lambda: large("PNG", 20_000, 20_000), cut_jpeg], ids=["PNG", "JPEG"])
def test_a_claim_takes_no_memory(make: Callable[[], bytes]):
    script = [sys.executable, "-c", MEMORY]
    result = subprocess.run(script, input=make(), capture_output=True, check=True, timeout=50)
    assert int(result.stdout) < 100_000, "KB"


def test_what_pillow_says_of_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "array", no_memory)
    with pytest.raises(ImageError, match="there is not enough memory for its pixels"):
        decode_image(LOSSLESS["png"]())


def test_jpegs_are_decoded_by_our_own_decoder():
    data = jpeg(photo(229, 307))
    np.testing.assert_array_equal(decode_image(data), _native.decode_jpeg(array(data), max_side=0, min_side=0))


def test_a_jpegs_pixels_are_no_other_images():
    first, second = (decode_image(jpeg(photo(height, 307))) for height in (229, 230))
    np.testing.assert_array_equal(first, decode_image(jpeg(photo(229, 307))))
    assert not np.shares_memory(first, second)


KEPT = r"""
import sys
from pathlib import Path
from loaders.image_files import ImageError, decode_image
def resident():  # KB
    return 4 * int(Path("/proc/self/statm").read_text().split()[1])
small, cut = (Path(name).read_bytes() for name in sys.argv[1:])
kept, before = [decode_image(small)], resident()
for _ in range(30):
    try:
        decode_image(cut)
    except ImageError:
        kept.append(decode_image(small))
print(len(kept), resident() - before)
"""


def test_a_small_image_does_not_keep_the_memory_of_a_large_one_that_failed(tmp_path: Path):
    (tmp_path / "small.jpg").write_bytes(jpeg(photo(29, 43)))
    (tmp_path / "cut.jpg").write_bytes(jpeg(photo(2000, 2000))[:-4000])
    script = [sys.executable, "-c", KEPT, tmp_path / "small.jpg", tmp_path / "cut.jpg"]
    result = subprocess.run(script, capture_output=True, check=True, timeout=50)
    number, grown = map(int, result.stdout.split())
    assert (number, grown < 100_000) == (31, True), f"{grown} KB"
