"""Copies of what is measured have the same images: as files in class folders, or several times over."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.measured_data import as_class_folders, repeated
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
    folder = as_class_folders(photo_set.path, tmp_path / "files")
    assert sorted(_pixels_and_labels(open_records(folder))) == sorted(_pixels_and_labels(open_records(photo_set.path)))
    with Beton(photo_set.path) as beton:
        assert (folder / "000001" / "000000004.jpg").read_bytes() == beton.image_bytes(4).tobytes()
    assert capsys.readouterr().err == f"writing the images of {photo_set.path} as files\n"


@pytest.mark.parametrize("data", ["folder", "tar"], indirect=True)
def test_files_and_shards_are_left_where_they_are(data, tmp_path):
    assert as_class_folders(data, tmp_path / "files") == data
    assert not (tmp_path / "files").exists()


def test_raw_images_are_no_files(raw_set, tmp_path):
    with pytest.raises(ValueError, match="dali-plain decodes JPEGs, but .*raw.beton holds raw images: leave it out"):
        as_class_folders(raw_set.path, tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"no\.beton: no such file"):
        repeated(Path("no.beton"), tmp_path, times=2)


def _pixels_and_labels(records):
    return [(int(label), records.decode(index).numpy().tobytes()) for index, label in enumerate(records.labels)]
