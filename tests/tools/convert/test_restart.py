"""Mode `restart` over every kind of JPEG: no decoder sees another pixel than before."""

import base64
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from jpeg_builders import (
    APP0,
    DHT,
    DQT,
    DRI,
    FRAMES,
    SOF1,
    SOS,
    array,
    bodies,
    cmyk,
    find,
    first_scans,
    grey_in_2x2,
    in_scans,
    jpeg,
    named_rgb,
    noise,
    of_other_process,
    patched,
    photo,
    resampled,
    sampled,
    with_16_bit_tables,
    with_adobe_transform,
    with_fill_bytes,
    with_restarts,
    without,
)
from loaders import _native
from tools.convert.encode_image import ImageEncoder, StoredImage, Treatment

pytestmark = pytest.mark.timeout(60)

# A ramp and a box of 40 x 24 pixels: neither Pillow nor torchvision can write arithmetic codes.
ARITHMETIC = base64.b85decode(
    b"|JeWA07C!}3k(hn3J?wr4iXU%6BsBO7#0>7F(V}%C^|DeJUKHsH$X^SPC!IgMK?H5ZBbWWVrOV)K233XaAbH~WoKjm+W<oW5fTy@6&NoX8ZTo)I6"
    b"`A%V`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1u|H%Lm2mlxWC<6f^00I#K0}%oL%m4}i5D*0c5D^9c+5ij#0RRF"
    b"K0}%i}0RI4<Sz!25PKFk@@;w6Vz8W)_U9&Ukt0$K%Gm>+#GbHX6Wy!Rt<Z%K9f3K~E{{Tf907JqH-{dx0+D;&hX1*1y=+gVJQWdikSmM5K%0z5X-"
    b"5mwbLj;kR5M(Lklxtk$N((F-!*cbG?g7p{C@r+xgw%C+|Je"
)
PROGRESSIVE_ARITHMETIC = base64.b85decode(
    b"|JeWA07C!}3k(hn3J?wr4iXU%6BsBO7#0>7F(V}%C^|DeJUKHsH$X^SPC!IgMK?H5ZBbWWVrOV)K233XaAbH~WoKjm+W<oW5fTy@6&NoX8ZTo)I6"
    b"`A%V`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1u|H=Rn2mlxWC<6f^00I#K0}%oL%m4-e5CIVX+5ij#0RRFJ0}uc"
    b"J0sjCyY{Y4dJ%+0uZ84E9b^>9>1J(yiBDy+r|I7dc5C#9*00;pA009L86Ee=n+XDdg_A2p*6#vWs1Q7-Q+5iXv0|5a)0Uk5CMqLtkih%#j00a>Q|"
    b"Jncu0RjO5KLHm0<h%j|iT-)?BdnojF#pT|1P}%P+5iXv0RRR+0<izg00a;P|Jncu0RaF3KOv3NN}V`PPcuCr|Jncy0|5X600RI301yqfpJRak%m4"
    b"%t1^?Or2mu2D0Y4D293c=2kpIj81Q7-Q+5iXv0s#R(5ED4X8uH{y3CMfE|I7dc5C#9*00;pA00BP`A5~^MVh2$LcrCoI17i{1Vsg(dVE@?"
)


def progressive(mode: str = "RGB", **options: object) -> bytes:
    return jpeg(photo(97, 131, mode), progressive=True, **options)


def other_tables_in_the_third_scan(data: bytes) -> bytes:
    """Quantization tables that change between scans, as no sequential file of one scan can have them."""
    third = [at for at in range(len(data)) if data[at : at + 2] == bytes([0xFF, SOS])][2]
    table = bytes([0xFF, DQT, 0, 67, 0]) + bytes([9] * 64)
    return data[:third] + table + data[third:]


REWRITTEN: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: jpeg(photo(97, 131)),
    "4:2:2": lambda: jpeg(photo(97, 131), subsampling=1),
    "4:4:4": lambda: jpeg(photo(97, 131), subsampling=0),
    "4:4:0": lambda: resampled(jpeg(photo(64, 160), subsampling=1), 0x12, 125, 79),
    "4:1:1": lambda: resampled(jpeg(photo(208, 96)), 0x41, 101, 187),
    "3 x 1": lambda: sampled(photo(97, 131), 0x31, 0x11, 0x11),
    "luma coarser than chroma": lambda: sampled(photo(97, 131), 0x11, 0x22, 0x22),
    "one chroma fine in rows, one in columns": lambda: sampled(photo(97, 131), 0x22, 0x12, 0x21),
    "grey": lambda: jpeg(photo(97, 131, "L")),
    "grey in 2 x 2": lambda: grey_in_2x2(97, 131),
    "RGB": lambda: jpeg(photo(97, 131), keep_rgb=True, subsampling=0),
    "RGB by name": lambda: named_rgb(jpeg(photo(97, 131))),
    "no JFIF marker": lambda: without(jpeg(photo(97, 131)), APP0),
    "RGB by Adobe's marker": lambda: with_adobe_transform(jpeg(photo(97, 131), subsampling=0), 0),
    "YCbCr by Adobe's marker": lambda: with_adobe_transform(jpeg(photo(97, 131)), 1),
    "an unknown transform by Adobe's marker": lambda: with_adobe_transform(jpeg(photo(97, 131)), 7),
    "noise": lambda: jpeg(noise(97, 131), quality=100, subsampling=0, optimize=True),
    "three scans": lambda: in_scans(photo(97, 131).split()),
    "extended": lambda: of_other_process(jpeg(photo(97, 131)), SOF1),
    "16-bit tables": lambda: with_16_bit_tables(jpeg(photo(97, 131))),
    "restart every 3 blocks": lambda: jpeg(photo(97, 131), restart_marker_blocks=3),
    "fill bytes": lambda: with_fill_bytes(jpeg(photo(97, 131))),
    "a second image behind it": lambda: jpeg(photo(97, 131)) + jpeg(photo(60, 80)),
    "no end marker": lambda: jpeg(photo(97, 131))[:-2],
    "no end marker, text behind it": lambda: jpeg(photo(97, 131))[:-2] + b"written by a camera",
    "progressive, no end marker": lambda: progressive()[:-2],
    "three scans, no end marker": lambda: in_scans(photo(97, 131).split())[:-2],
    "arithmetic": lambda: ARITHMETIC,
    "arithmetic, progressive": lambda: PROGRESSIVE_ARITHMETIC,
    "progressive": progressive,
    "progressive 4:4:4": lambda: progressive(subsampling=0),
    "progressive grey": lambda: progressive("L"),
    "progressive RGB": lambda: progressive(keep_rgb=True, subsampling=0),
}

KEPT: dict[str, Callable[[], bytes]] = {
    **{f"first {count} scans": lambda count=count: first_scans(progressive(), count) for count in range(1, 10)},
    **{f"first {count} scans, grey": lambda count=count: first_scans(progressive("L"), count) for count in range(1, 6)},
    "first 2 scans, 4:4:4": lambda: first_scans(progressive(subsampling=0), 2),
    "first 4 scans, RGB": lambda: first_scans(progressive(keep_rgb=True, subsampling=0), 4),
    "first 3 scans, arithmetic": lambda: first_scans(PROGRESSIVE_ARITHMETIC, 3),
    "other tables in a later scan": lambda: other_tables_in_the_third_scan(in_scans(photo(97, 131).split())),
    "no end marker, a second image behind it": lambda: jpeg(photo(97, 131))[:-2] + jpeg(photo(60, 80)),
}


@contextmanager
def lenient_pillow() -> Iterator[None]:
    """Pillow reads what has no end marker only when asked to."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with lenient_pillow(), Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def by_us(data: bytes) -> NDArray[np.uint8]:
    return _native.decode_jpeg(array(data), max_side=0, min_side=0)


def restart(data: bytes) -> StoredImage:
    return ImageEncoder(mode="restart").encode(data, name="1.jpg")


def assert_the_same_pixels(data: bytes, rewritten: bytes) -> None:
    for decode in (by_us, by_pillow):
        np.testing.assert_array_equal(decode(rewritten), decode(data))


@pytest.mark.parametrize("kind", REWRITTEN)
def test_rewritten_without_changing_a_pixel(kind: str):
    data = REWRITTEN[kind]()
    image = restart(data)
    assert image.treatment is Treatment.REWRITTEN
    assert bodies(image.data, DRI)
    assert_the_same_pixels(data, image.data)


@pytest.mark.parametrize("kind", KEPT)
def test_what_a_rewrite_would_change_is_kept(kind: str):
    data = KEPT[kind]()
    assert restart(data)[0::4] == (data, Treatment.KEPT)
    assert by_us(data).shape == by_pillow(data).shape


def test_progressive_images_that_lack_any_scans():
    """Also out of their order: whatever is rewritten has the same pixels."""
    data, rng = progressive(), random.Random(0)
    bounds = [*(at for at in range(len(data)) if data[at : at + 2] == bytes([0xFF, DHT])), len(data) - 2]
    head, parts = data[: bounds[0]], [data[begin:end] for begin, end in pairwise(bounds)]  # each scan with its tables
    treatments = set()
    for _ in range(40):
        some = rng.sample(parts, rng.randint(1, len(parts)))
        file = head + b"".join(some if rng.random() < 0.5 else [part for part in parts if part in some]) + b"\xff\xd9"
        try:
            image = restart(file)
        except RuntimeError:
            continue
        treatments.add(image.treatment)
        assert_the_same_pixels(file, image.data)
    assert Treatment.KEPT in treatments
    assert restart(head + b"".join(parts) + b"\xff\xd9").treatment is Treatment.REWRITTEN


def test_what_ends_after_some_of_its_scans_is_refused():
    """Without an end marker it is cut short."""
    for data in (progressive(), in_scans(photo(97, 131).split())):
        starts = [at for at in range(len(data)) if data[at : at + 2] == bytes([0xFF, SOS])]
        for end in starts[1:]:
            with pytest.raises(RuntimeError, match="."):
                with_restarts(data[:end])
            for mode in ("keep", "restart", "reencode"):
                with pytest.raises(ValueError, match="cut short: it has no end marker"):
                    ImageEncoder(mode=mode).encode(data[:end], name="1.jpg")


def test_fractions_between_the_sizes_of_components_are_refused():
    """By decoders as well: nothing may be stored that cannot be read."""
    one_scan = jpeg(photo(8, 160), keep_rgb=True, subsampling=0)  # 20 MCUs of 3 blocks become 10 of 6
    frame = find(one_scan, *FRAMES)
    for offset, value in ((7, 0), (8, 240), (11, 0x31), (14, 0x21)):
        one_scan = patched(one_scan, frame + offset, value)
    for file in (one_scan, sampled(photo(97, 131), 0x31, 0x21, 0x11)):
        for mode in ("keep", "restart", "reencode"):
            with pytest.raises(RuntimeError, match="Fractional sampling not implemented"):
                ImageEncoder(mode=mode).encode(file, name="1.jpg")


def test_four_components_are_converted():
    assert restart(cmyk(97, 131, 2)).treatment is Treatment.CONVERTED


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes of its scans are others, or it ends early."""
    changed, scans = bytearray(data), find(data, SOS)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(scans, len(data))] = rng.randrange(256)
    if rng.random() < 0.2:
        del changed[rng.randrange(scans, len(data)) :]
    return bytes(changed)


def assert_one_answer(data: bytes) -> bool:
    """Every mode takes it, or none does: what the loaders' decoder says. If so, `restart` changes no pixel."""
    try:
        pixels = by_us(data)
    except RuntimeError:
        for mode in ("keep", "restart", "reencode", "png"):
            with pytest.raises((RuntimeError, ValueError), match="."):
                ImageEncoder(mode=mode).encode(data, name="1.jpg")
        return False
    assert ImageEncoder(mode="keep").encode(data, name="1.jpg").data == data
    assert_the_same_pixels(data, restart(data).data)
    for mode in ("reencode", "png"):
        assert ImageEncoder(mode=mode).encode(data, name="1.jpg")[2:4] == pixels.shape[:2]
    return True


@pytest.mark.parametrize("kind", [*REWRITTEN, *KEPT])
def test_one_answer_of_all_modes_for_what_is_damaged(kind: str):
    """Of noise, more: damage makes it have coefficients past the last, which libjpeg repairs in silence."""
    data, rng = (REWRITTEN | KEPT)[kind](), random.Random(0)
    answers = [assert_one_answer(damaged(data, rng)) for _ in range(100 if kind == "noise" else 12)]
    assert not all(answers)


@pytest.mark.parametrize("number", [0, 1])
def test_a_quantization_table_that_is_missing(number: int):
    for options in ({}, {"progressive": True}):
        assert not assert_one_answer(without(jpeg(photo(97, 131), **options), DQT, number))


def test_without_check_damage_is_stored():
    """But no file that ends before its pixels do."""
    data = jpeg(photo(97, 131))
    garbled = data[: len(data) // 2] + data[: len(data) // 2 : -1][:40] + b"\xff\xd9"
    with pytest.raises(RuntimeError, match="."):
        ImageEncoder(mode="keep").encode(garbled, name="1.jpg")
    unchecked = ImageEncoder(mode="keep", check=False)
    assert unchecked.encode(garbled, name="1.jpg").treatment is Treatment.KEPT
    with pytest.raises(ValueError, match="cut short"):
        unchecked.encode(data[:-40], name="1.jpg")
