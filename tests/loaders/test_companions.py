"""What lies next to a dataset: the names of its classes and of its images."""

import json
from pathlib import Path

import pytest

from loaders.companions import class_names, source_names


def write_card(path: Path, names: object) -> None:
    path.write_text(json.dumps({"class_names": names}))


def test_a_folder_has_the_names_of_its_folders(tmp_path):
    for name in ("b", "a", "10", "9"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    (tmp_path / "photos" / "readme.txt").touch()
    assert class_names(tmp_path / "photos") == ("10", "9", "a", "b")


def test_a_beton_has_those_of_its_card(tmp_path):
    assert class_names(tmp_path / "a.beton") is None
    write_card(tmp_path / "a.beton.json", ["cat", "dog"])
    assert class_names(tmp_path / "a.beton") == ("cat", "dog")


def test_shards_have_those_of_the_card_that_they_share(tmp_path):
    for number in range(2):
        (tmp_path / f"train-{number:04}.tar").touch()
    write_card(tmp_path / "train.json", ["cat", "dog"])
    assert class_names(tmp_path) == class_names(tmp_path / "train-*.tar") == ("cat", "dog")
    (tmp_path / "more-0000.tar").touch()
    write_card(tmp_path / "more.json", ["cow"])
    with pytest.raises(ValueError, match=r"more\.json and .*train\.json name different classes"):
        class_names(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"class_names": []}', '{"class_names": [1]}', "{}"])
def test_a_damaged_card_is_named(tmp_path, text):
    (tmp_path / "a.beton.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.beton\.json"):
        class_names(tmp_path / "a.beton")


def test_the_images_names_are_those_of_the_record_list(tmp_path):
    path = tmp_path / "a.beton"
    assert source_names(path) is None
    lines = ["0a\t9\tjpg\t1\t1\t0\tkept\tx/1.jpg", "skipped\t0\tdamaged\tx/2.jpg", "0b\t9\tjpg\t1\t1\t0\tkept\tx/3.jpg"]
    path.with_name("a.beton.records.tsv").write_text("\n".join(lines) + "\n")
    assert source_names(path) == ["x/1.jpg", "x/3.jpg"]
