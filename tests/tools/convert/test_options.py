"""Options that all converters share: what is refused, the encoder that they make, names of parts."""

from dataclasses import replace
from pathlib import Path

import pytest

from tools.convert.encode_image import ImageEncoder
from tools.convert.options import ConversionOptions, part_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_side": -1}, r"max_side must lie in \[0, 65536\), got -1"),
        ({"min_side": -1}, r"min_side must lie in \[0, 65536\), got -1"),
        ({"seed": -1}, r"seed must lie in \[0, 18446744073709551616\), got -1"),
        ({"jpeg_quality": 0}, "got 0"),
        ({"jpeg_quality": 101}, "got 101"),
        ({"num_workers": 0}, "num_workers must be positive, got 0"),
        *(
            ({"part": part}, "part must be NUMBER/COUNT with a number from 1 to the count, such as 2/8")
            for part in ("", "0/3", "4/3", "3", "1/0", "-1/2", "1/2/3", "1/99999", " 1/2", "1/2\n", "a/b")
        ),
    ],
)
def test_options_that_make_no_sense(options: ConversionOptions, changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        replace(options, **changes)


def test_the_encoder_has_the_options(options: ConversionOptions):
    config = replace(options, max_side=300, min_side=200, jpeg_quality=77, chroma="4:2:2", exif_orientation="apply")
    encoder = config.encoder("mixed", raw_fraction=0.25)
    expected = ImageEncoder(
        mode="mixed",
        max_side=300,
        min_side=200,
        jpeg_quality=77,
        chroma="4:2:2",
        raw_fraction=0.25,
        exif_orientation="apply",
    )
    assert encoder == expected
    for mode, max_side in {"keep": None, "restart": None, "reencode": 500, "raw": 500, "png": 500}.items():
        assert options.encoder(mode).max_side == max_side
    assert replace(options, max_side=0, min_side=0).encoder("raw") == ImageEncoder(mode="raw")


def test_only_keep_can_do_without_a_check(options: ConversionOptions):
    unchecked = replace(options, check=False)
    assert unchecked.encoder("keep") == ImageEncoder(mode="keep", check=False)
    for mode in ("restart", "reencode", "raw", "mixed", "png"):
        with pytest.raises(ValueError, match=f"--no-check is for mode keep: mode {mode} reads every image anyway"):
            unchecked.encoder(mode)


def test_names_of_parts():
    assert part_path(Path("a/train.beton"), None) == Path("a/train.beton")
    assert part_path(Path("a/train.v2.beton"), (2, 8)) == Path("a/train.v2.part-2-of-8.beton")
