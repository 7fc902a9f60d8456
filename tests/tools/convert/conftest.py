"""A source of any number of images without pixels, ten in each class."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.convert import job
from tools.convert.options import ConversionOptions


class Sample(NamedTuple):
    """An image that is only known by its number."""

    number: int

    @property
    def label(self) -> int:
        return self.number // 10

    @property
    def name(self) -> str:
        return f"{self.label}/{self.number}"

    def load(self) -> bytes:
        raise AssertionError("planning must not load images")


class Source(Sequence[Sample]):
    """Ten images in each class."""

    def __init__(self, num_images: int, *, random_access: bool = True) -> None:
        self._num_images, self.random_access = num_images, random_access
        self.class_names = tuple(f"class {label}" for label in range(-(-num_images // 10)))

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> Sample:
        return Sample(range(self._num_images)[index])


SetSource = Callable[..., Source]


@pytest.fixture
def set_source(monkeypatch: pytest.MonkeyPatch) -> SetSource:
    """Let every conversion find a source of so many images."""

    def set_to(num_images: int, **options: bool) -> Source:
        source = Source(num_images, **options)
        monkeypatch.setattr(job, "open_source", lambda *_: source)
        return source

    return set_to


@pytest.fixture
def options(tmp_path: Path, set_source: SetSource) -> ConversionOptions:
    """A conversion of 95 images."""
    set_source(95)
    return ConversionOptions(dataset="folder", source=tmp_path)
