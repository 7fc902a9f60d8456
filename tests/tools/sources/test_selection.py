"""Images of a manifest found in a source, or not."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tools.listings.manifest import Manifest
from tools.sources.selection import positions_of

NAMES = ("a b.jpg", "tab\there", "new\nline", "car\rriage", "back\\slash", "\\t", "Übergröße", "\udcff\udc80", "# x")


class Sample(NamedTuple):
    label: int
    name: str

    def load(self) -> bytes:
        raise AssertionError("finding images must not load them")


class Source(list):
    """Stands in for an `ImageSource`."""

    class_names = ("zero", "one", "two")
    random_access = True


def make_manifest(path: Path, samples: list[Sample]) -> Manifest:
    return Manifest(
        path=path,
        source="folder, 99 images in 3 classes, sha256 0123",
        rule="by hand",
        seed=0,
        labels=np.array([sample.label for sample in samples], np.int64),
        names=[sample.name for sample in samples],
    )


@pytest.fixture
def source() -> Source:
    """In no order that one could guess, as CIFAR-10's."""
    return Source(Sample(index * 7 % 3, name) for index, name in enumerate(NAMES))


@pytest.fixture
def manifest(tmp_path: Path, source: Source) -> Manifest:
    return make_manifest(tmp_path / "subset.txt", source[1:8:2])


def test_images_are_found_in_the_order_of_the_source(manifest: Manifest, source: Source):
    positions = positions_of(manifest, source)
    assert positions.dtype == np.int64
    assert positions.tolist() == [1, 3, 5, 7]
    assert positions_of(make_manifest(manifest.path, list(source)), source).tolist() == list(range(9))
    assert positions_of(make_manifest(manifest.path, []), source).tolist() == []


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path, source: Source):
    samples = [source[0], Sample(0, "gone/1"), source[2], Sample(0, "gone/2")]
    message = (
        "m.txt: 2 of 4 images are not in the source, the first 'gone/1'; name the source that the manifest was made "
        "from (folder, 99 images in 3 classes, sha256 0123), or make a manifest of this one"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        positions_of(make_manifest(tmp_path / "m.txt", samples), source)


def test_other_labels_are_counted_and_the_first_is_named(tmp_path: Path, source: Source):
    samples = [source[0], source[1]._replace(label=5), source[2], source[4]._replace(label=6)]
    message = "m.txt: 2 of 4 images have another label in the source, the first 'tab\\there': 1, not 5; its class"
    with pytest.raises(ValueError, match=re.escape(message)):
        positions_of(make_manifest(tmp_path / "m.txt", samples), source)


def test_an_image_named_twice(tmp_path: Path, source: Source):
    samples = [source[0], source[2], source[2], source[3]]
    with pytest.raises(ValueError, match=r"m.txt: 'new\\nline' is named 2 times; copy it again, or make it again"):
        positions_of(make_manifest(tmp_path / "m.txt", samples), source)


def test_another_order(tmp_path: Path, source: Source):
    samples = [source[0], source[4], source[3]]
    with pytest.raises(ValueError, match=r"m.txt: 'car\\rriage' is not in the order of the source"):
        positions_of(make_manifest(tmp_path / "m.txt", samples), source)
