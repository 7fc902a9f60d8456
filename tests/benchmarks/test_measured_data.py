"""Copies of what is measured have the same images: as files in class folders, or several times over."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.measured_data import as_form, repeated
from loaders.beton import Beton
from loaders.records import open_records
from tools.write_dali import main as write_dali


@pytest.fixture(params=["photos.beton", "folder", "tar", "tfrecord", "tfrecord of TensorFlow"])
def data(request, photo_set, image_folder, tmp_path):
    """Data of each kind."""
    if request.param == "photos.beton":
        return photo_set.path
    if request.param == "folder":
        return image_folder
    out = tmp_path / "shards" / "train"
    options = ["--dataset", "folder", "--source", str(image_folder), "--shard-images", "3", "--mode", "keep"]
    assert write_dali([*options, "--out", str(out), "--format", request.param.removesuffix(" of TensorFlow")]) == 0
    if request.param == "tfrecord of TensorFlow":
        for number in range(3):
            out.with_name(f"train-00000{number}.tfrecord").rename(out.with_name(f"train-0000{number}-of-00003"))
            out.with_name(f"train-00000{number}.idx").rename(out.with_name(f"train-0000{number}-of-00003.idx"))
    return out.parent


def test_all_images_and_labels_so_many_times(data, tmp_path):
    copy = repeated(data, tmp_path / "copy", times=3)
    once, thrice = open_records(data), open_records(copy)
    assert sorted(_pixels_and_labels(thrice)) == sorted(3 * _pixels_and_labels(once))
    if data.name == "shards":
        assert len(list(copy.glob("*.idx"))) == 3 * 3


def test_raw_pixels_stay_what_they_are(raw_set, tmp_path):
    with Beton(repeated(raw_set.path, tmp_path, times=2)) as beton:
        assert beton.labels.tolist() == 2 * raw_set.labels.tolist()
        assert np.array_equal(beton.image_bytes(60), raw_set.images[60 - 53].reshape(-1))


def test_the_jpegs_of_a_beton_file_in_class_folders(photo_set, tmp_path, capsys):
    folder = as_form("files", photo_set.path, tmp_path / "files", reader="dali-plain")
    assert sorted(_pixels_and_labels(open_records(folder))) == sorted(_pixels_and_labels(open_records(photo_set.path)))
    with Beton(photo_set.path) as beton:
        assert (folder / "000001" / "000000004.jpg").read_bytes() == beton.image_bytes(4).tobytes()
    assert capsys.readouterr().err == f"writing the images of {photo_set.path} for dali-plain\n"


@pytest.mark.parametrize("form", ["beton", "folder"])
@pytest.mark.parametrize("data", ["photos.beton", "folder", "tar", "tfrecord"], indirect=True)
def test_the_same_images_and_labels_in_each_form(data, tmp_path, form):
    copy = as_form(form, data, tmp_path / "copy", reader="ffcv")
    assert sorted(_pixels_and_labels(open_records(copy))) == sorted(_pixels_and_labels(open_records(data)))
    assert copy.is_dir() == (form == "folder")


def test_what_has_the_form_already_is_taken_as_it_is(photo_set, image_folder, tmp_path):
    for form, path in (("any", photo_set.path), ("beton", photo_set.path), ("folder", image_folder)):
        assert as_form(form, path, tmp_path / "none", reader="ffcv") == path
    assert not (tmp_path / "none").exists()


def test_other_images_than_jpegs_are_not_written_into_a_beton_file(tmp_path):
    file = tmp_path / "images" / "dog" / "1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        ValueError, match="^image 0 is no JPEG, .*leave those that need one .ffcv, limit. out of --loaders, or"
    ):
        as_form("beton", tmp_path / "images", tmp_path / "copy", reader="ffcv")


def test_other_images_than_jpegs_are_written_into_forms_that_hold_files(tmp_path):
    file = tmp_path / "shards" / "0.tar"
    file.parent.mkdir()
    image = Image.new("RGB", (9, 7), (1, 2, 3))
    with tarfile.open(file, "w") as archive:
        for name, content in (("a.png", _png(image)), ("a.cls", b"4")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    copy = as_form("folder", file.parent, tmp_path / "copy", reader="torch-pil")
    assert open_records(copy).decode(0).shape == (3, 7, 9)


def _png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("data", ["folder", "tar"], indirect=True)
def test_files_and_shards_are_left_where_they_are(data, tmp_path):
    assert as_form("files", data, tmp_path / "files", reader="dali-plain") == data
    assert not (tmp_path / "files").exists()


def test_raw_images_are_no_files(raw_set, tmp_path):
    with pytest.raises(ValueError, match="dali-plain decodes JPEGs, but .*raw.beton holds raw images: leave it out"):
        as_form("files", raw_set.path, tmp_path, reader="dali-plain")


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"no\.beton: no such file"):
        repeated(Path("no.beton"), tmp_path, times=2)


def _pixels_and_labels(records):
    return [(int(label), records.decode(index).numpy().tobytes()) for index, label in enumerate(records.labels)]
