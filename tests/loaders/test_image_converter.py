"""What converters do to images in C++: restart markers without loss, decoding, making smaller, encoding."""

import heapq
import io
import random
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jpeg_builders import (
    DHT,
    DQT,
    DRI,
    EOI,
    SOF0,
    SOF2,
    SOS,
    array,
    assembled,
    bodies,
    grey_in_2x2,
    jpeg,
    noise,
    patched,
    photo,
    segments,
    with_restarts,
)
from loaders import _native

pytestmark = pytest.mark.timeout(60)

Block = tuple[int, tuple[int, ...]]
"""A component's number and the symbols and values of its block, the DC value in full."""


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    """Decoded by Pillow, in the file's own colours."""
    return np.asarray(Image.open(io.BytesIO(data)))


def decode(data: bytes, **limits: int) -> NDArray[np.uint8]:
    return _native.decode_jpeg(array(data), **({"max_side": 0, "min_side": 0} | limits))


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


# A JPEG's parts


def sampling_factors(data: bytes) -> list[tuple[int, int]]:
    (frame,) = bodies(data, SOF0)
    return [(factors >> 4, factors & 15) for factors in frame[7::3]]


def restart_interval(data: bytes) -> int:
    found = bodies(data, DRI)
    return int.from_bytes(found[-1]) if found else 0


def mcus(data: bytes) -> tuple[int, int]:
    """How many there are in a column and in a row."""
    (frame,) = bodies(data, SOF0)
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    factors = sampling_factors(data)
    h, v = (max(side) for side in zip(*factors, strict=True)) if len(factors) > 1 else (1, 1)
    return -(-height // (8 * v)), -(-width // (8 * h))


def scan_of(data: bytes) -> bytes:
    """What follows the header of the first scan, up to the end marker."""
    *_, header = segments(data)
    return data[header.end : data.rindex(bytes([0xFF, EOI]))]


def intervals(data: bytes) -> list[bytes]:
    """The data between restart markers, unstuffed; the markers count from 0 to 7 again and again."""
    parts, scan = [], scan_of(data)
    while True:
        end = next((at for at in range(len(scan) - 1) if scan[at] == 0xFF and scan[at + 1]), None)
        parts.append(scan[:end].replace(b"\xff\x00", b"\xff"))
        if end is None:
            return parts
        assert scan[end + 1] == 0xD0 + (len(parts) - 1) % 8
        scan = scan[end + 2 :]


def code_lengths(table: bytes) -> dict[int, int]:
    """The length of each symbol's code."""
    lengths = [length for length in range(1, 17) for _ in range(table[length - 1])]
    return dict(zip(table[16:], lengths, strict=True))


def tables_of(data: bytes) -> dict[int, bytes]:
    """Huffman tables by class and number: 16 counts, then the symbols."""
    tables = {}
    for body in bodies(data, DHT):
        while body:
            num_symbols = sum(body[1:17])
            tables[body[0]] = body[1 : 17 + num_symbols]
            body = body[17 + num_symbols :]
    return tables


def codes_of(table: bytes) -> dict[str, int]:
    """Symbols by their codes, as strings of bits."""
    codes, code, last = {}, 0, 0
    for symbol, length in code_lengths(table).items():
        code <<= length - last
        codes[f"{code:0{length}b}"], last = symbol, length
        code += 1
    return codes


class Bits:
    """Reads symbols and the bits of their values."""

    def __init__(self, data: bytes) -> None:
        self.bits, self.position = "".join(f"{byte:08b}" for byte in data), 0

    def take(self, codes: dict[str, int]) -> tuple[int, str]:
        start = self.position
        end = next(end for end in range(start + 1, start + 17) if self.bits[start:end] in codes)
        symbol = codes[self.bits[start:end]]
        self.position = end + (symbol & 15)
        return symbol, self.bits[end : self.position]

    @property
    def rest(self) -> str:
        return self.bits[self.position :]


@cache
def blocks_of(data: bytes) -> list[Block]:
    """Every block of a sequential JPEG, decoded symbol by symbol."""
    codes = {name: codes_of(table) for name, table in tables_of(data).items()}
    (scan,) = bodies(data, SOS)
    factors = sampling_factors(data)
    mcu = [
        (component, codes[scan[2 + 2 * component] >> 4], codes[0x10 + (scan[2 + 2 * component] & 15)])
        for component, (h, v) in enumerate(factors)
        for _ in range(h * v if len(factors) > 1 else 1)
    ]
    rows, columns = mcus(data)
    interval = restart_interval(data) or rows * columns
    blocks: list[Block] = []
    for number, part in enumerate(intervals(data)):
        bits, dc = Bits(part), Counter[int]()
        for _ in range(min(interval, rows * columns - number * interval)):
            for component, dc_codes, ac_codes in mcu:
                size, value = bits.take(dc_codes)
                dc[component] += int(value or "0", 2) - (0 if value[:1] == "1" else 2**size - 1)
                block, k = [dc[component]], 1
                while k < 64:
                    symbol, value = bits.take(ac_codes)
                    block += [symbol, int(value or "0", 2)]
                    k = 64 if symbol == 0 else k + (symbol >> 4) + 1
                blocks.append((component, tuple(block)))
        assert len(bits.rest) < 8
        assert set(bits.rest) <= {"1"}
    return blocks


ALL_AC_SYMBOLS = [0, 0xF0, *(zeros << 4 | size for zeros in range(16) for size in range(1, 11))]


def hand_made(
    blocks: list[list[tuple[int, int]]], *, symbols: list[int] | None = None, width: int | None = None
) -> bytes:
    """A grey JPEG with an 8-bit code for each AC symbol: blocks are lists of symbol and value; all DC values are 0."""
    symbols = symbols or sorted({0, *(symbol for block in blocks for symbol, _ in block)})
    bits = []
    for block in blocks:
        bits.append("0")
        for symbol, value in block:
            bits.append(f"{symbols.index(symbol):08b}" + (f"{value:0{symbol & 15}b}" if symbol & 15 else ""))
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8).replace(b"\xff", b"\xff\x00")
    size = (8).to_bytes(2) + (width or 8 * len(blocks)).to_bytes(2)
    parts = {
        DQT: bytes(1) + bytes([1] * 64),
        SOF0: b"\x08" + size + b"\x01\x01\x11\x00",
        DHT: bytes([0, 1, *[0] * 15, 0]) + bytes([0x10, *[0] * 7, len(symbols), *[0] * 8, *symbols]),
        SOS: b"\x01\x01\x00\x00\x3f\x00",
    }
    return assembled(parts, scan)


# Restart markers


SEQUENTIAL: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: jpeg(photo(97, 130), subsampling=2),
    "4:2:2": lambda: jpeg(photo(97, 130), subsampling=1),
    "4:4:4": lambda: jpeg(photo(97, 130), subsampling=0),
    "grey": lambda: jpeg(photo(97, 130, "L")),
    "grey in 2 x 2": lambda: grey_in_2x2(97, 130),
    "CMYK": lambda: jpeg(photo(97, 130, "CMYK")),
    "RGB": lambda: jpeg(photo(97, 130), keep_rgb=True, subsampling=0),
    "optimized": lambda: jpeg(photo(97, 130), optimize=True),
    "noise": lambda: jpeg(noise(97, 130), quality=100, subsampling=0),
    "coarse": lambda: jpeg(photo(97, 130), quality=5),
    "restart markers": lambda: jpeg(photo(97, 130), restart_marker_blocks=3),
    "restart markers everywhere": lambda: jpeg(photo(97, 130), restart_marker_blocks=1),
    "one colour": lambda: jpeg(Image.new("RGB", (130, 97), (90, 200, 7))),
    "one MCU": lambda: jpeg(photo(16, 16), subsampling=2),
    "one pixel": lambda: jpeg(photo(1, 1)),
    "high": lambda: jpeg(photo(1000, 3), subsampling=2),
    "metadata": lambda: jpeg(photo(97, 130), comment=b"\xff\xd9 a comment", icc_profile=bytes(300)),
}


def test_several_at_once_come_out_as_alone():
    """Of all kinds, whole, cut short and none at all; the codes of some are kept, those of others are made anew."""
    whole = [load() for load in SEQUENTIAL.values()]
    progressive = jpeg(photo(97, 130), progressive=True)
    files = [*whole, *map(with_restarts, whole), progressive, b"none", *(data[: len(data) // 2] for data in whole)]
    random.Random(0).shuffle(files)
    results = _native.add_restart_markers_to_all([array(data) for data in files], 4)
    for data, result in zip(files, results, strict=True):
        if isinstance(result, bytes):
            assert result == with_restarts(data)
        else:
            with pytest.raises(RuntimeError, match=re.escape(result)):
                with_restarts(data)
    assert sum(isinstance(result, str) for result in results) > len(whole)
    assert _native.add_restart_markers_to_all([], 4) == []


@pytest.mark.parametrize("interval", [1, 4, 7, 10**6, 2**31 - 1])
@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_restart_markers_keep_every_coefficient(kind: str, interval: int):
    data = SEQUENTIAL[kind]()
    rewritten = with_restarts(data, interval)
    assert blocks_of(rewritten) == blocks_of(data)
    np.testing.assert_array_equal(pixels_of(rewritten), pixels_of(data))
    assert bodies(rewritten, DQT) == bodies(data, DQT)
    again = with_restarts(rewritten, 3)  # whose codes are the image's own, and stay
    assert blocks_of(again) == blocks_of(data)
    # As many MCUs as divide a row and come nearest to what is asked for, the fewer of two.
    rows, columns = mcus(data)
    divisors = [number for number in range(1, columns + 1) if columns % number == 0]
    chosen = min(divisors, key=lambda divisor: (abs(divisor - interval), divisor))
    assert restart_interval(rewritten) == chosen
    assert len(intervals(rewritten)) == rows * columns // chosen
    assert with_restarts(rewritten, interval) == rewritten


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_symbol_by_symbol_as_by_libjpegs_coefficients(mode: str, subsampling: int):
    """A progressive file of the same coefficients goes through libjpeg: the same blocks come out, in as many bytes."""
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    plain, progressive = (jpeg(photo(97, 130, mode), progressive=flag, **options) for flag in (False, True))
    assert bodies(progressive, SOF2)
    ours, libjpegs = with_restarts(plain), with_restarts(progressive)
    assert blocks_of(ours) == blocks_of(libjpegs)
    np.testing.assert_array_equal(pixels_of(ours), pixels_of(progressive))
    assert len(scan_of(ours)) == pytest.approx(len(scan_of(libjpegs)), rel=0.01)  # of equal codes, others are all ones


@pytest.mark.parametrize("size", [(8, 65_500), (17, 20_000), (65_500, 8)])
def test_wide_and_high_images(size: tuple[int, int]):
    data = jpeg(photo(*size), subsampling=2)
    rewritten = with_restarts(data)
    assert rewritten.count(b"\xff\xd7") > 50
    np.testing.assert_array_equal(decode(rewritten), decode(data))


def test_the_tables_are_the_best():
    data = SEQUENTIAL["noise"]()
    assert len(with_restarts(data, 10**6)) < len(data)
    optimized = jpeg(noise(97, 130), quality=100, subsampling=0, optimize=True)
    assert len(scan_of(with_restarts(data, 10**6))) == pytest.approx(len(scan_of(optimized)), rel=0.002)


def test_a_byte_of_ones_before_a_marker_is_stuffed():
    rewritten = with_restarts(jpeg(noise(160, 160), quality=100, subsampling=0), 1)
    assert any(b"\xff\x00\xff" + bytes([0xD0 + number]) in rewritten for number in range(8))
    np.testing.assert_array_equal(pixels_of(rewritten), pixels_of(jpeg(noise(160, 160), quality=100, subsampling=0)))


def unlimited_depth(frequencies: list[int]) -> int:
    """The length of the longest code of Huffman's tree."""
    heap = [(frequency, 0) for frequency in (0, *frequencies)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (one, depth), (other, other_depth) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (one + other, 1 + max(depth, other_depth)))
    return heap[0][1]


def test_codes_that_would_be_longer_than_16_bits():
    """Frequencies like Fibonacci's numbers make a tree that is deeper than JPEG's codes may be long."""
    rng = random.Random(0)
    frequencies, symbols = [1, 1], [zeros << 4 | size for zeros in (0, 1) for size in range(1, 11)]
    while len(frequencies) < len(symbols):
        frequencies.append(sum(frequencies[-2:]))
    drawn = [symbol for symbol, count in zip(symbols, frequencies, strict=True) for _ in range(count)]
    rng.shuffle(drawn)
    values = [(symbol, rng.getrandbits(symbol & 15)) for symbol in drawn]
    blocks = [[*values[start : start + 30], (0, 0)] for start in range(0, len(values), 30)]
    data = hand_made(blocks, symbols=ALL_AC_SYMBOLS)  # or the image's own codes would be kept
    counts = Counter(symbol for block in blocks for symbol, _ in block)
    assert unlimited_depth(list(counts.values())) > 16
    rewritten = with_restarts(data, 7)
    assert blocks_of(rewritten) == blocks_of(data)
    lengths = code_lengths(tables_of(rewritten)[0x10])
    assert lengths.keys() == counts.keys()
    assert max(lengths.values()) == 16
    assert sum(2**-length for length in lengths.values()) < 1  # no code is all ones
    assert lengths[0] <= lengths[symbols[0]]
    np.testing.assert_array_equal(pixels_of(rewritten), pixels_of(data))


def test_codes_of_the_next_block_do_not_pass_for_an_end():
    """Codes that are copied are skipped several at a time: here some of two blocks look like the end of the first."""
    bits = "0" + "000101" + "0" + "000" + "11101" + "110"
    bits += "1" * (-len(bits) % 8)
    parts = {
        DQT: bytes(1) + bytes([1] * 64),
        SOF0: b"\x08" + (8).to_bytes(2) + (16).to_bytes(2) + b"\x01\x01\x11\x00",
        DHT: bytes([0, 1, 1, 1, 1, *[0] * 12, 0, 2, 3, 1])
        + bytes([0x10, 1, 1, 1, 1, *[0] * 12, 0xF0, 0xE1, 0x00, 0x01]),
        SOS: b"\x01\x01\x00\x00\x3f\x00",
    }
    data = assembled(parts, int(bits, 2).to_bytes(len(bits) // 8))
    assert blocks_of(with_restarts(data, 1)) == blocks_of(data)


def test_symbols_of_all_sizes():
    blocks = [[(zeros << 4 | size, 2**size - 1), (0, 0)] for zeros in range(16) for size in range(1, 11)]
    blocks += [[(0xF0, 0), (0xF0, 0), (0xF0, 0), (0xE1, 1)], [(0x01, 0)] * 63]  # full to the last coefficient
    data = hand_made(blocks)
    assert blocks_of(with_restarts(data)) == blocks_of(data)


@pytest.mark.parametrize("size", [11, 15])
def test_values_larger_than_8_bit_images_have(size: int):
    """Two of them with long codes do not fit one machine word."""
    with pytest.raises(RuntimeError, match="DCT coefficient out of range"):
        with_restarts(hand_made([[(size, 2**size - 1)] * 60 + [(0, 0)]] * 4))
    unused = hand_made([[(1, 1), (0, 0)]] * 4, symbols=[0, 1, size])
    np.testing.assert_array_equal(pixels_of(with_restarts(unused)), pixels_of(unused))


@pytest.mark.parametrize("block", [[(0xF0, 0)] * 4, [(0x01, 1)] * 62 + [(0x11, 1)], [(0x20, 0)]])
def test_blocks_that_overflow_are_never_written_wrong(block: list[tuple[int, int]]):
    data = hand_made([block, [(0, 0)]])
    try:
        rewritten = with_restarts(data)
    except RuntimeError:
        return
    np.testing.assert_array_equal(decode(rewritten), decode(data))


def test_the_tables_of_a_broken_image_are_not_the_next_ones():
    """An image without a table means the standard one, whatever there was before it was found to be broken."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        whole = jpeg(Image.fromarray(rng.integers(256, size=(8, 8), dtype=np.uint8)), quality=30)
        table = next(segment for segment in segments(whole) if segment.marker == DHT)
        assert table.body[0] == 0  # of DC values
        symbols = [*np.roll(range(6), 1 + seed % 5).tolist(), *range(6, 11), 200]  # no value has so many bits
        broken = patched(whole, table.begin + 21, *symbols)
        with pytest.raises(RuntimeError, match="Bogus Huffman table"):
            with_restarts(broken)
        bare = whole[: table.begin] + whole[table.end :]
        np.testing.assert_array_equal(pixels_of(with_restarts(bare)), pixels_of(whole))


@pytest.mark.parametrize("kind", ["4:2:0", "grey", "restart markers", "CMYK"])
def test_restart_markers_for_a_jpeg_that_is_cut_short(kind: str):
    data = SEQUENTIAL[kind]()
    for length in range(0, len(data) - 2, 7):
        with pytest.raises(RuntimeError):
            with_restarts(data[:length])
    for length in (len(data) - 1, len(data) - 2):  # without its end marker nothing is missing
        np.testing.assert_array_equal(decode(with_restarts(data[:length])), decode(data))


def outcome(function: Callable[[], NDArray[np.uint8]]) -> bytes | None:
    try:
        return function().tobytes()
    except RuntimeError:
        return None


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "grey", "restart markers"])
def test_restart_markers_for_a_jpeg_that_is_damaged(kind: str):
    """It fails, or has the same pixels as before; libjpeg silently mends some of what our decoder refuses."""
    data, rng = SEQUENTIAL[kind](), random.Random(0)
    num_rewritten = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            rewritten = with_restarts(bytes(damaged))
        except RuntimeError:
            continue
        num_rewritten += 1
        if (before := outcome(lambda data=bytes(damaged): decode(data))) is not None:
            assert decode(rewritten).tobytes() == before
    assert num_rewritten > 20


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"no image", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + bytes(100)]
)
def test_what_is_no_jpeg_fails_by_name(data: bytes):
    for function in (with_restarts, decode, lambda data: _native.read_jpeg_header(array(data))):
        with pytest.raises(RuntimeError, match="."):
            function(data)


@pytest.mark.parametrize("interval", [0, -1])
def test_intervals_that_make_no_sense(interval: int):
    with pytest.raises(ValueError, match=f"interval must be positive, got {interval}"):
        with_restarts(SEQUENTIAL["4:2:0"](), interval)


# Decoding, making smaller, encoding


def test_headers():
    data = jpeg(photo(97, 130))
    *_, scan = segments(data)
    assert _native.read_jpeg_header(array(data)) == (97, 130, 3, scan.end)
    assert _native.read_jpeg_header(array(SEQUENTIAL["CMYK"]()))[2] == 4
    assert _native.read_jpeg_header(array(SEQUENTIAL["grey"]()))[2] == 1


LIMITS = [
    (50, 0, (37, 50)),
    (0, 50, (50, 67)),
    (130, 0, (97, 130)),
    (129, 0, (96, 129)),
    (100, 50, (50, 67)),
    (1, 0, (1, 1)),
]


@pytest.mark.parametrize(("max_side", "min_side", "size"), [*LIMITS, (0, 0, (97, 130)), (10**6, 10**6, (97, 130))])
def test_sizes_are_exact(max_side: int, min_side: int, size: tuple[int, int]):
    image = photo(97, 130)
    limits = {"max_side": max_side, "min_side": min_side}
    options = {"quality": 90, "chroma": (2, 2), "restart_interval": 4}
    assert decode(jpeg(image), **limits).shape == (*size, 3)
    assert _native.shrink_pixels(np.asarray(image), **limits).shape == (*size, 3)
    for encoded, *found in (
        _native.reencode_jpeg(array(jpeg(image)), **limits, **options),
        _native.encode_pixels(np.asarray(image), **limits, **options),
    ):
        assert tuple(found) == size == pixels_of(encoded).shape[:2]


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1), (7, 7), (427, 640)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_images_decode_as_by_pillow(mode: str, size: tuple[int, int]):
    data = jpeg(photo(*size, mode))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode(data).astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(_native.shrink_pixels(expected, max_side=0, min_side=0), expected)


@pytest.mark.parametrize("max_side", [600, 320, 300, 159, 100, 79, 40])
def test_smaller_images_look_as_by_pillow(max_side: int):
    """Also where 1/2, 1/4 or 1/8 of the size is decoded."""
    data = jpeg(photo(427, 640), quality=95)
    image = Image.open(io.BytesIO(data))
    found = decode(data, max_side=max_side)
    expected = image.resize(found.shape[1::-1], Image.Resampling.BILINEAR)
    assert psnr(found, np.asarray(expected)) > 36
    from_pixels = _native.shrink_pixels(np.asarray(image), max_side=max_side, min_side=0)
    assert psnr(from_pixels, np.asarray(expected)) > 45


@pytest.mark.parametrize("chroma", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("interval", [0, 1, 4])
def test_encoding(chroma: tuple[int, int], interval: int):
    pixels = np.asarray(photo(97, 131))
    options = {"max_side": 0, "min_side": 0, "quality": 90, "chroma": chroma, "restart_interval": interval}
    data, height, width = _native.encode_pixels(pixels, **options)
    assert (height, width) == (97, 131)
    assert sampling_factors(data) == [chroma, (1, 1), (1, 1)]
    _, columns = mcus(data)
    assert (columns % restart_interval(data) == 0) if interval else restart_interval(data) == 0
    assert len(intervals(data)) > 10 if interval else len(intervals(data)) == 1
    if chroma != (1, 2):
        same = jpeg(photo(97, 131), quality=90, subsampling={(1, 1): 0, (2, 1): 1, (2, 2): 2}[chroma])
        assert bodies(data, DQT) == bodies(same, DQT)
        np.testing.assert_array_equal(pixels_of(data), pixels_of(same))
    # What was JPEG before goes the short way, without RGB in between: as good or better.
    again, *_ = _native.reencode_jpeg(array(jpeg(photo(97, 131), quality=100, subsampling=0)), **options)
    assert psnr(pixels_of(again), pixels) > psnr(pixels_of(data), pixels) - 0.3


@pytest.mark.parametrize("kind", ["grey", "CMYK", "RGB", "restart markers"])
def test_every_kind_becomes_ycbcr(kind: str):
    source = SEQUENTIAL[kind]()
    options = {"max_side": 0, "min_side": 0, "quality": 95, "chroma": (1, 1), "restart_interval": 4}
    data, *_ = _native.reencode_jpeg(array(source), **options)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    assert psnr(np.asarray(image), np.asarray(Image.open(io.BytesIO(source)).convert("RGB"))) > 38


def test_threads_do_not_disturb_one_another():
    sources = [jpeg(photo(200 + 7 * number, 300 - 5 * number)) for number in range(8)]
    options = {"max_side": 150, "min_side": 0, "quality": 90, "chroma": (2, 2), "restart_interval": 4}

    def work(data: bytes) -> tuple[object, ...]:
        small = _native.shrink_pixels(decode(data), max_side=99, min_side=0)
        encoded = _native.encode_pixels(small, **options)
        return _native.reencode_jpeg(array(data), **options), with_restarts(data), small.tobytes(), encoded

    alone = [work(data) for data in sources]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, sources * 4)) == alone * 4


def test_options_that_make_no_sense():
    pixels = np.zeros((4, 4, 3), np.uint8)
    good = {"max_side": 0, "min_side": 0, "quality": 90, "chroma": (2, 2), "restart_interval": 4}
    bad = {"quality": (0, 101), "chroma": ((0, 1), (1, 3)), "restart_interval": (-1,)}
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                _native.encode_pixels(pixels, **(good | {name: value}))
    for shape in ((0, 4, 3), (4, 0, 3)):
        with pytest.raises(ValueError, match="1 to 65535 pixels"):
            _native.encode_pixels(np.zeros(shape, np.uint8), **good)
    with pytest.raises(RuntimeError, match="65500 pixels"):
        _native.encode_pixels(np.zeros((1, 65_501, 3), np.uint8), **good)
