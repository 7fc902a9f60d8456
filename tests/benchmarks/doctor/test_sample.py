"""The sample: spread over the data, and loaded from its copy as from the data."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from benchmarks.doctor.sample import (
    DataSet,
    Place,
    Sample,
    copy_as_it_is,
    copy_converted,
    draw,
    open_data_set,
    place_of,
)
from loaders import build_loader
from loaders.beton import Beton, ImageMode
from loaders.records import open_records
from tools.convert.encode_image import ImageEncoder


@pytest.mark.parametrize("kind", ["beton", "folder", "tar", "tfrecord"])
def test_where_images_lie(forms, kind):
    data_set = open_data_set(forms[kind])
    assert (data_set.kind, data_set.is_mapped, len(data_set.images)) == (kind, kind != "folder", 12)
    for one in draw(data_set, 5):
        path, offset, size = place_of(one)
        assert path.read_bytes()[offset : offset + size] == one.load()


@pytest.mark.parametrize("kind", ["beton", "folder", "tar", "tfrecord"])
def test_a_copy_loads_as_the_data_do(forms, kind, sample_of, config, tmp_path):
    sample = sample_of(forms[kind])
    path = copy_as_it_is(sample, tmp_path / "copy", times=2)
    assert path.is_dir() == (kind == "folder")
    for name in (path, forms[kind]):
        loader = build_loader("native", name, config)
        seen = np.sort(np.concatenate([batch.labels.numpy() for batch in loader]))
        loader.close()
        assert seen.tolist() == sorted((2 if name == path else 1) * sample.labels)
    copied = open_records(path)
    first = open_records(forms[kind]).decode(0)
    assert any(
        (copied.decode(index).shape == first.shape) and (copied.decode(index) == first).all() for index in (0, 1)
    )


def test_pixels_stay_pixels(raw_set, sample_of, tmp_path):
    with Beton(copy_as_it_is(sample_of(raw_set.path), tmp_path / "copy")) as copy:
        assert (copy.modes == ImageMode.RAW).all()
        assert (copy.image_bytes(7) == raw_set.images[7].reshape(-1)).all()


def test_what_a_beton_file_cannot_hold_becomes_files(sample_of, tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, data in (("0.png", file.getvalue()), ("0.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    path = copy_as_it_is(sample_of(tmp_path / "train.tar"), tmp_path / "copy")
    assert [one.name for one in path.rglob("*.png")] == ["000000-0.png"]


def test_a_converted_copy(forms, sample_of, tmp_path):
    whole = sample_of(forms["folder"])
    sample = Sample(whole.data_set, whole.images[:4], whole.labels[:4])
    encoder = ImageEncoder(mode="raw", max_side=64)
    path = copy_converted(sample, encoder, tmp_path / "raw.beton", num_threads=1, num_images=11)
    with Beton(path) as copy:
        assert copy.num_samples == 12
        assert np.maximum(copy.heights, copy.widths).max() == 64
        assert copy.labels.tolist() == 3 * sample.labels


@pytest.mark.parametrize(
    ("num_images", "bytes_per_image", "times"),
    [(3, 1e3, 1), (4, 1e3, 1), (5, 1e3, 2), (1e9, 1e3, 3), (1e9, 60e6, 2), (1e9, 1e9, 1)],
)
def test_copies_make_epochs_long_but_not_longer_than_the_datas(forms, sample_of, num_images, bytes_per_image, times):
    whole = sample_of(forms["beton"])  # of 12 images
    sample = Sample(whole.data_set, whole.images[:4], whole.labels[:4])
    assert sample.copies(num_images, bytes_per_image=bytes_per_image) == times


def test_images_that_cannot_be_decoded_are_left_out(broken_set, sample_of, tmp_path):
    with Beton(
        copy_converted(
            sample_of(broken_set.path),
            ImageEncoder(mode="reencode"),
            tmp_path / "a.beton",
            num_threads=1,
            num_images=1,
        )
    ) as copy:
        assert copy.num_samples == 8


def test_a_sample_is_spread_over_places_and_sizes(monkeypatch):
    class Images:
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return index

    data_set = DataSet("x", "beton", Images())
    # Every tenth image is a hundred times as large, all in one half of the data.
    size_of = {index: 100 if index < 200 and index % 2 else 1 for index in range(1000)}
    monkeypatch.setattr("benchmarks.doctor.sample.place_of", lambda index: Place("x", 0, size_of[index]))
    drawn = draw(data_set, 100)
    assert drawn == sorted(set(drawn)) == draw(data_set, 100)
    assert len(drawn) == 100
    assert abs(sum(size_of[index] == 100 for index in drawn) - 10) <= 1
    assert abs(sum(index < 500 for index in drawn) - 50) < 15
    assert draw(data_set, 2000) == list(range(1000))
