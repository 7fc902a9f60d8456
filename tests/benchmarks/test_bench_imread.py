"""Whole images: each library gives the same pixels, each image counts once, and what is not installed is named."""

import json
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from PIL import ExifTags, Image

from benchmarks import bench_imread
from benchmarks.bench_imread import BenchImread, Decoding, read_jpegs
from benchmarks.cli import main
from benchmarks.peers import decoders
from benchmarks.peers.decoders import DECODERS, problem_of, version_of
from jpeg_builders import jpeg, photo
from loaders.errors import FastvitError
from loaders.image_files import decode_image


@pytest.fixture
def photos(tmp_path):
    """Six JPEGs in two folders, of which one is grey."""
    folder = tmp_path / "photos"
    for number in range(6):
        file = folder / str(number % 2) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(photo(40 + number, 56, "L" if number == 3 else "RGB")))
    return folder


@pytest.mark.usefixtures("in_process")
def test_a_row_for_each_decoder_and_number_of_threads(photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["--data", str(photos), "--decoders", "fastvit,pillow", "--threads", "1", "2", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["fastvit-bench", "imread", *options, "--rounds", "3", "--round-seconds", "0"])
    assert main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    named = [(row["decoder"], row["threads"]) for row in rows]
    assert named == [("fastvit", 1), ("pillow", 1), ("fastvit", 2), ("pillow", 2)]
    pixels = np.mean([56 * height for height in (40, 41, 42, 44, 45)])
    for row in rows:
        assert (row["benchmark"], row["num_images"], row["data"]) == ("imread", 5, str(photos))
        assert len(row["rounds"]) == 3
        low, high = row["images_per_second_interval"]
        assert low <= row["images_per_second"] == sorted(row["rounds"])[1] <= high
        assert row["megapixels_per_second"] == pytest.approx(row["images_per_second"] * pixels / 1e6)
    assert [row["ratio_to_first"] for row in rows[::2]] == [1, 1]
    assert rows[1]["version"] == version_of("pillow") != version_of("fastvit") == rows[0]["version"]
    printed, said = capsys.readouterr()
    assert "5 whole images" in printed
    assert "one thread" in printed
    assert "2 threads" in printed
    assert "without 1 images that are no JPEGs, or grey, or CMYK" in said


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_decoders_give_the_pixels_of_the_whole_image(name):
    if problem := problem_of(name):
        pytest.skip(problem)
    decode = DECODERS[name].load()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # which is ignored
    data = jpeg(photo(229, 307), exif=exif)
    pixels = decode(data)
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((229, 307, 3), np.uint8, True)
    assert np.abs(pixels.astype(int) - decode_image(data)).mean() < 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_image_is_decoded_once_in_a_pass(photos, monkeypatch, threads):
    seen, lock = Counter(), threading.Lock()

    def decode(data):
        with lock:
            seen[data] += 1
        return decode_image(data)

    monkeypatch.setitem(DECODERS, "pillow", DECODERS["pillow"]._replace(load=lambda: decode))
    work = Decoding("pillow", BenchImread(data=photos), threads)
    assert work.passes(3) == 15
    assert sorted(seen.values()) == [3] * 5


def _fail(error):
    def raise_it(*_):
        raise error

    return raise_it


def test_a_library_that_is_not_there_is_listed_with_what_installs_it(photos, monkeypatch, capsys):
    missing = DECODERS["turbojpeg"]._replace(load=_fail(RuntimeError("no libturbojpeg\nanywhere")))
    table = {name: DECODERS[name] for name in ("fastvit", "pillow")} | {"turbojpeg": missing}
    monkeypatch.setattr(decoders, "DECODERS", table)
    monkeypatch.setattr(bench_imread, "DECODERS", table)
    measured = []
    row = {"num_images": 5, "data": "x", "threads": 1, "decoder": "fastvit", "version": None}

    def measured_rows(_, subjects, *args, **options):
        measured.extend(subjects)
        return [row] * 2

    monkeypatch.setattr(bench_imread, "measured_rows", measured_rows)
    monkeypatch.setattr(bench_imread, "_print", lambda rows: None)
    bench_imread.bench_imread(BenchImread(data=photos, threads=(1,)))
    assert measured == ["fastvit", "pillow"]
    line = "turbojpeg is not installed (no libturbojpeg); install it with: pip install 'PyTurboJPEG<2'"
    assert line in capsys.readouterr().out
    with pytest.raises(FastvitError, match="turbojpeg is not installed .*; install it with: pip install"):
        bench_imread.bench_imread(BenchImread(data=photos, threads=(1,), decoders=("pillow,turbojpeg",)))


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        (lambda data: decode_image(data)[:, ::-1], "makes uint8 (40, 56, 3) of image 1, which has 56 x 40 pixels"),
        (lambda data: decode_image(data)[:-1], "makes uint8 (39, 56, 3) of image 1"),
        (_fail(ValueError("not today")), "cannot decode image 1: not today; leave it out of --decoders"),
    ],
)
def test_a_decoder_that_does_less_is_not_measured(photos, monkeypatch, decode, reason):
    monkeypatch.setitem(DECODERS, "pillow", DECODERS["pillow"]._replace(load=lambda: decode))
    with pytest.raises(FastvitError) as raised:
        Decoding("pillow", BenchImread(data=photos), 1).checked_pass()
    assert reason in str(raised.value)


def test_images_are_spread_over_the_data(photos, tmp_path, raw_set):
    assert read_jpegs(photos, 3) == ([(photos / name).read_bytes() for name in ("0/0.jpg", "0/4.jpg")], 1)
    for path, problem in ((raw_set.path, "has no JPEGs with colour"), (tmp_path / "none.beton", "no such file")):
        with pytest.raises(FastvitError, match=problem):
            read_jpegs(path, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoders": ("nope",)}, "unknown decoder 'nope'; choose from: fastvit, imageio, installed"),
        ({"threads": ()}, r"threads must be one positive number or more, got \(\)"),
        ({"threads": (1, 0)}, r"threads must be one positive number or more, got \(1, 0\)"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
    ],
)
def test_bad_options_are_refused(tmp_path, changes, message):
    with pytest.raises(FastvitError, match=message):
        BenchImread(data=tmp_path, **changes)
