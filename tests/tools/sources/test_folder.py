"""Folders of images: numbered as torchvision does it, links, odd names, and folders that hold no data set."""

import os
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionImageFolder

from tools.sources.folder import ImageFolder


def save(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def test_image_folder_numbers_as_torchvision_does(tmp_path: Path):
    names = ["b/2.jpg", "b/10.jpg", "b/inner/deeper/1.PNG", "b/inner-2/1.jpeg", "a/x.JPEG", "Z/y.JPG", "a/z.jpeg"]
    for shade, name in enumerate(names):
        save(tmp_path / name, shade)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "classes.txt").write_text("no class")
    source = ImageFolder(tmp_path)
    reference = TorchvisionImageFolder(tmp_path)
    assert source.class_names == tuple(reference.classes) == ("Z", "a", "b")
    assert [(str(sample), sample.label) for sample in source] == reference.samples
    assert [str(tmp_path / sample.name) for sample in source] == [path for path, _ in reference.samples]
    assert len(source) == len(names)
    assert source[0].load() == (tmp_path / "Z" / "y.JPG").read_bytes()


def test_a_linked_class_folder_counts(tmp_path: Path):
    save(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    assert [str(sample) for sample in ImageFolder(tmp_path / "data")] == [str(tmp_path / "data" / "cat" / "1.jpg")]


LAYOUT = r"expected .*/CLASS/IMAGE with images that end in \.jpg, \.jpeg, .*\.png.*"


def test_folders_that_hold_no_data_set(tmp_path: Path):
    with pytest.raises(ValueError, match=rf"missing: no such folder; {LAYOUT}"):
        ImageFolder(tmp_path / "missing")
    save(tmp_path / "loose.jpg")
    with pytest.raises(ValueError, match=rf"no class folders in it; {LAYOUT}"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match=r"loose\.jpg: no such folder"):
        ImageFolder(tmp_path / "loose.jpg")
    save(tmp_path / "cat" / "1.jpg")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.txt").touch()
    with pytest.raises(ValueError, match=rf"no images in 1 of 2 class folders, the first 'dog'; {LAYOUT}; remove"):
        ImageFolder(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "cat" / "1.jpg")
    save(tmp_path / "cat" / "more" / "2.jpg")
    scandir = os.scandir

    def refuse(path: str):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="more"):
        ImageFolder(tmp_path)


def test_a_loop_of_links_ends(tmp_path: Path):
    save(tmp_path / "cat" / "1.jpg")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    with pytest.raises(ValueError, match=r"cat/loop: this link leads to a folder around it, .*; remove it"):
        ImageFolder(tmp_path)


def test_names_that_are_no_utf8(tmp_path: Path):
    save(tmp_path / "cat" / "1.jpg")
    os.rename(tmp_path / "cat" / "1.jpg", os.fsencode(tmp_path / "cat") + b"/\xff.jpg")
    (sample,) = ImageFolder(tmp_path)
    assert sample.load().startswith(b"\xff\xd8")
    assert os.fsencode(sample.name) == b"cat/\xff.jpg"
