"""Small image files of every format and kind, sound and damaged, for tests of what reads them."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jpeg_builders import FRAMES, find, patched

HEIGHT, WIDTH = 29, 43

PNG_START = b"\x89PNG\r\n\x1a\n"


# Pixels


@cache
def pixels(mode: str) -> Image.Image:
    """A coarse pattern with noise, so that every filter and every code has something to do."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 215, (HEIGHT // 8 + 1, WIDTH // 8 + 1, 4)).repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH]
    rgba = (coarse + random.integers(-9, 10, coarse.shape)).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(rgba[:, :, 0].astype(np.uint16) * 256 + rgba[:, :, 1])
    return Image.fromarray(rgba).convert(mode)


def wide_pixels() -> NDArray[np.uint16]:
    """RGB of 16 bits, which Pillow has no mode for."""
    rgb = np.asarray(pixels("RGB")).astype(np.uint16)
    return rgb * 256 + rgb[:, :, ::-1]


def saved(mode: str, file_format: str, **options: object) -> bytes:
    """The image as Pillow writes it."""
    file = io.BytesIO()
    pixels(mode).save(file, file_format, **options)
    return file.getvalue()


def animated(file_format: str, **options: object) -> bytes:
    """Two frames, of which the second one differs in a corner."""
    first, second = pixels("RGB"), pixels("RGB").copy()
    second.paste((255, 0, 0), (10, 10, 20, 20))
    file = io.BytesIO()
    first.save(file, file_format, save_all=True, append_images=[second], duration=100, **options)
    return file.getvalue()


# What Pillow cannot write


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of each chunk, as far as there are whole ones."""
    place = len(PNG_START)
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += 12 + size


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, with checksums that are right."""
    parts = [
        len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4) for kind, content in chunks
    ]
    return PNG_START + b"".join(parts)


def plain_png(bits: int, colour_type: int, rows: list[bytes], *, interlaced: bool = False) -> bytes:
    """A PNG of these rows, each of which begins with the number of its filter."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, interlaced)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))


def interlaced_png() -> bytes:
    rgb = np.asarray(pixels("RGB"))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [
        b"\0" + row.tobytes()
        for first_row, first_column, row_step, column_step in passes
        for row in rgb[first_row::row_step, first_column::column_step]
    ]
    return plain_png(8, 2, rows, interlaced=True)


def filtered_png() -> bytes:
    """Every filter in turn; the pixels that come out are nobody's."""
    return plain_png(8, 2, [bytes([y % 5]) + row.tobytes() for y, row in enumerate(np.asarray(pixels("RGB")))])


def bmp(bits: int, compression: int, data: bytes, palette: bytes = b"") -> bytes:
    """A BMP with a header of 40 bytes."""
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def run_length_bmp() -> bytes:
    """8 bits, run-length coded: runs, pixels as they are, and a jump over some."""
    row = bytes([20, 1, 0, 5, 1, 2, 3, 4, 5, 0, 0, 2, 3, 0, 10, 9, 0, 0])
    return bmp(8, 1, row * HEIGHT + b"\0\1", bytes(range(40)))


def half_word_bmp() -> bytes:
    """16 bits, 5 of each colour."""
    row_bytes = (2 * WIDTH + 3) // 4 * 4
    return bmp(16, 0, np.random.default_rng(0).integers(256, size=row_bytes * HEIGHT, dtype=np.uint8).tobytes())


def plain_text(magic: bytes, maximum: int) -> bytes:
    """A PPM or PGM in decimal numbers."""
    values = np.asarray(pixels("RGB" if magic == b"P3" else "L")).ravel().astype(np.int64) * maximum // 255
    numbers = b"\n".join(b" ".join(b"%d" % value for value in row) for row in np.array_split(values, HEIGHT))
    return b"%s\n# text\n%d %d\n%d\n%s\n" % (magic, WIDTH, HEIGHT, maximum, numbers)


def wide_ppm(magic: bytes) -> bytes:
    wide = wide_pixels() if magic == b"P6" else wide_pixels()[:, :, 0]
    return b"%s %d %d 65535\n" % (magic, WIDTH, HEIGHT) + wide.astype(">u2").tobytes()


def wide_tiff() -> bytes:
    """RGB of 16 bits in one strip."""
    data = wide_pixels().astype("<u2").tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 259: 1, 262: 2, 273: 8, 277: 3, 278: HEIGHT, 279: len(data)}
    bits = struct.pack("<3H", 16, 16, 16)
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.insert(2, struct.pack("<HHII", 258, 3, 3, 8 + len(data)))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(bits)) + data + bits + directory


# All of them

SAMPLES: dict[str, Callable[[], bytes]] = {
    "PNG RGB": lambda: saved("RGB", "PNG"),
    "PNG RGBA": lambda: saved("RGBA", "PNG"),
    "PNG grey": lambda: saved("L", "PNG"),
    "PNG grey with alpha": lambda: saved("LA", "PNG"),
    "PNG palette": lambda: saved("P", "PNG"),
    "PNG palette with transparency": lambda: saved("P", "PNG", transparency=3),
    "PNG palette of 2 bits": lambda: saved("P", "PNG", bits=2),
    "PNG RGB with a transparent colour": lambda: saved("RGB", "PNG", transparency=(1, 2, 3)),
    "PNG 1 bit": lambda: saved("1", "PNG"),
    "PNG grey of 16 bits": lambda: saved("I;16", "PNG"),
    "PNG RGB of 16 bits": lambda: plain_png(16, 2, [b"\0" + row.astype(">u2").tobytes() for row in wide_pixels()]),
    "PNG interlaced": interlaced_png,
    "PNG of all filters": filtered_png,
    "PNG animated": lambda: animated("PNG"),
    "WebP": lambda: saved("RGB", "WEBP"),
    "WebP with alpha": lambda: saved("RGBA", "WEBP"),
    "WebP lossless": lambda: saved("RGB", "WEBP", lossless=True),
    "WebP lossless with alpha": lambda: saved("RGBA", "WEBP", lossless=True),
    "WebP animated": lambda: animated("WEBP"),
    "GIF": lambda: saved("P", "GIF"),
    "GIF not interlaced": lambda: saved("P", "GIF", interlace=0),
    "GIF grey": lambda: saved("L", "GIF"),
    "GIF with transparency": lambda: saved("P", "GIF", transparency=3),
    "GIF animated": lambda: animated("GIF"),
    "GIF of 2 colours": lambda: saved("1", "GIF"),
    "BMP RGB": lambda: saved("RGB", "BMP"),
    "BMP RGBA": lambda: saved("RGBA", "BMP"),
    "BMP palette": lambda: saved("P", "BMP"),
    "BMP 1 bit": lambda: saved("1", "BMP"),
    "BMP run-length": run_length_bmp,
    "BMP 16 bits": half_word_bmp,
    "TIFF RGB": lambda: saved("RGB", "TIFF"),
    "TIFF RGBA": lambda: saved("RGBA", "TIFF"),
    "TIFF CMYK": lambda: saved("CMYK", "TIFF"),
    "TIFF grey": lambda: saved("L", "TIFF"),
    "TIFF palette": lambda: saved("P", "TIFF"),
    "TIFF YCbCr": lambda: saved("YCbCr", "TIFF", compression="jpeg"),
    "TIFF JPEG": lambda: saved("RGB", "TIFF", compression="jpeg"),
    "TIFF LZW": lambda: saved("RGB", "TIFF", compression="tiff_lzw"),
    "TIFF LZW with differences": lambda: saved("RGB", "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
    "TIFF deflate": lambda: saved("RGB", "TIFF", compression="tiff_adobe_deflate"),
    "TIFF packbits": lambda: saved("L", "TIFF", compression="packbits"),
    "TIFF fax": lambda: saved("1", "TIFF", compression="group4"),
    "TIFF fax of group 3": lambda: saved("1", "TIFF", compression="group3"),
    "TIFF in strips": lambda: saved("RGB", "TIFF", compression="tiff_lzw", tiffinfo={278: 5}),
    "TIFF grey of 16 bits": lambda: saved("I;16", "TIFF"),
    "TIFF grey of 16 bits, deflate": lambda: saved("I;16", "TIFF", compression="tiff_adobe_deflate"),
    "TIFF RGB of 16 bits": wide_tiff,
    "TIFF of two pages": lambda: animated("TIFF"),
    "TIFF big": lambda: saved("RGB", "TIFF", big_tiff=True),
    "PPM": lambda: saved("RGB", "PPM"),
    "PGM": lambda: saved("L", "PPM"),
    "PBM": lambda: saved("1", "PPM"),
    "PPM in text": lambda: plain_text(b"P3", 255),
    "PGM in text": lambda: plain_text(b"P2", 100),
    "PBM in text": lambda: b"P1\n%d %d\n" % (WIDTH, HEIGHT) + b"0 1 1 0 1 " * (WIDTH * HEIGHT // 5 + 1),
    "PPM of 16 bits": lambda: wide_ppm(b"P6"),
    "PGM of 16 bits": lambda: wide_ppm(b"P5"),
    "PPM of few levels": lambda: (
        b"P6 %d %d 7\n" % (WIDTH, HEIGHT) + bytes(value % 8 for value in range(3 * WIDTH * HEIGHT))
    ),
    "JPEG": lambda: saved("RGB", "JPEG"),
    "JPEG progressive": lambda: saved("RGB", "JPEG", progressive=True),
    "JPEG grey": lambda: saved("L", "JPEG"),
    "JPEG CMYK": lambda: saved("CMYK", "JPEG"),
}


# Sizes that no such file has


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header, or as it is where that size does not fit into it."""
    try:
        if data.startswith(PNG_START):
            (_, header), *others = png_chunks(data)
            return png((b"IHDR", struct.pack(">II", width, height) + header[8:]), *others)
        if data.startswith(b"GIF"):
            size = struct.pack("<HH", width, height)
            frame = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
            return data[:6] + size + data[10 : frame + 5] + size + data[frame + 9 :]
        if data.startswith(b"BM"):
            return data[:18] + struct.pack("<ii", width, height) + data[26:]
        if data.startswith(b"P"):
            return re.sub(rb"\d+ \d+", b"%d %d" % (width, height), data, count=1)
        if data.startswith(b"\xff\xd8"):
            return patched(data, find(data, *FRAMES) + 5, *struct.pack(">HH", height, width))
        if data.startswith(b"RIFF") and data[12:16] == b"VP8 ":
            return data[:26] + struct.pack("<HH", width, height) + data[30:]
        if data.startswith(b"RIFF") and data[12:16] == b"VP8L":
            return data[:21] + struct.pack("<I", (width - 1) % 2**14 | (height - 1) % 2**14 << 14) + data[25:]
        if data.startswith(b"RIFF"):
            return data[:24] + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + data[30:]
        if data.startswith(b"II*\0"):
            return _with_tags(data, {256: width, 257: height, 278: height})
    except struct.error:
        pass
    return data


def _with_tags(data: bytes, values: dict[int, int]) -> bytes:
    """A TIFF with other values of tags that are one number."""
    changed = bytearray(data)
    place = int.from_bytes(data[4:8], "little")
    for number in range(int.from_bytes(data[place : place + 2], "little")):
        entry = place + 2 + 12 * number
        tag = int.from_bytes(data[entry : entry + 2], "little")
        if tag in values:
            changed[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, values[tag])
    return bytes(changed)


# Damage


def damaged(data: bytes, random: Random) -> bytes:
    """A copy that is cut, or has wrong bytes, numbers or parts; the checksums of a PNG are often right nevertheless."""
    if data.startswith(PNG_START) and random.random() < 0.3:
        return _damaged_png(data, random)
    changed = random.choice(_DAMAGES)(bytearray(data), random)
    if changed.startswith(PNG_START) and random.random() < 0.7:
        return png(*png_chunks(changed))
    return bytes(changed)


def _cut(data: bytearray, random: Random) -> bytearray:
    return data[: random.randrange(len(data))]


def _other_bytes_in_front(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.randint(1, 4)):
        data[random.randrange(min(len(data), 200))] = random.randrange(256)
    return data


def _other_bytes(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.randint(1, 8)):
        data[random.randrange(len(data))] = random.randrange(256)
    return data


def _other_bit(data: bytearray, random: Random) -> bytearray:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def _other_number(data: bytearray, random: Random) -> bytearray:
    """One that is almost right, or at a limit, in either order of bytes."""
    size = random.choice([1, 2, 4, 8])
    place = random.randrange(min(len(data), random.choice([60, 200, 1 << 20])))
    order: Literal["little", "big"] = random.choice(["little", "big"])
    number = int.from_bytes(data[place : place + size], order) + random.randint(-3, 3)
    if random.random() < 0.5:
        number = random.choice([0, 1, 2, 2**15, 2**24, *(2**bits - 1 for bits in (7, 8, 15, 16, 31, 32, 63, 64))])
    data[place : place + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
    return data


def _without_some(data: bytearray, random: Random) -> bytearray:
    place = random.randrange(len(data))
    del data[place : place + random.randint(1, 64)]
    return data


def _with_more(data: bytearray, random: Random) -> bytearray:
    """A part of it once more, or noise."""
    place, source, size = random.randrange(len(data)), random.randrange(len(data)), random.randint(1, 64)
    data[place:place] = data[source : source + size] if random.random() < 0.5 else random.randbytes(size)
    return data


def _of_other_size(data: bytearray, random: Random) -> bytearray:
    def side() -> int:
        return random.choice([0, 1, random.randint(1, 100), 2**14, 2**15, 2**16 - 1, 2**24, 2**31 - 1])

    return bytearray(with_size(bytes(data), side(), side()))


_DAMAGES = [
    *(_cut, _other_bytes_in_front, _other_bytes, _other_bit, _other_number),
    *(_other_number, _without_some, _with_more, _of_other_size),
]


def _damaged_png(data: bytes, random: Random) -> bytes:
    """Damage behind checksums that are right, in the packed pixels too."""
    chunks = list(png_chunks(data))
    place = random.randrange(len(chunks))
    match random.randrange(5):
        case 0:
            del chunks[place]
        case 1:
            chunks.insert(random.randrange(len(chunks)), chunks[place])
        case 2:
            random.shuffle(chunks)
        case 3:
            kind, content = chunks[place]
            chunks[place] = kind, bytes(_other_number(bytearray(content or b"\0"), random))
        case _:
            packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
            rows = random.choice(_DAMAGES)(bytearray(zlib.decompress(packed)), random)
            others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
            chunks = [*others[:-1], (b"IDAT", zlib.compress(bytes(rows))), others[-1]]
    return png(*chunks)
