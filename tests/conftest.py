"""Small datasets that tests make for themselves."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

# Models as small as those of the tests only make several threads wait for each other. Subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from jpeg_builders import jpeg, sample_photos
from loaders.beton import BetonWriter, EncodedImage, FieldKind, ImageMode

# A shell's background job ignores Ctrl-C, and so would each process that the tests send one to.
signal.signal(signal.SIGINT, signal.default_int_handler)

FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}


class ImageSet(NamedTuple):
    """A `.beton` file and what was put into it."""

    path: Path
    images: list[NDArray[np.uint8]]
    """Each [h, w, 3]; what a JPEG decoder makes of them where they are stored as JPEG."""
    labels: NDArray[np.int64]


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """The image as a JPEG file's bytes."""
    return jpeg(Image.fromarray(image))


def write_images(path: Path, records: list[EncodedImage], labels: NDArray[np.int64]) -> None:
    """Write a `.beton` file of images and labels."""
    with BetonWriter(path, FIELDS, num_samples=len(records)) as writer:
        for record, label in zip(records, labels.tolist(), strict=True):
            writer.append([record, label])


def make_raw_set(path: Path, num_images: int, *, side: int = 32, num_classes: int = 10, seed: int = 0) -> ImageSet:
    """A file of raw square images whose colour tells their class, so that a model can learn it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_images)
    labels[:num_classes] = np.arange(num_classes)
    colours = np.random.default_rng(1).integers(256, size=(num_classes, 1, 1, 3))
    noise = rng.integers(-40, 40, size=(num_images, side, side, 3))
    images = np.clip(colours[labels] + noise, 0, 255).astype(np.uint8)
    write_images(path, [EncodedImage(image.reshape(-1), ImageMode.RAW, side, side) for image in images], labels)
    return ImageSet(path, list(images), labels)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests marked `gpu` out where there is none; `make gpu-check` makes sure of one before it starts."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    """Give torch back the threads that a test takes: with another number of them, the same sum has other bits."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def raw_set(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """53 raw images of 32 px: no multiple of any batch size."""
    return make_raw_set(tmp_path_factory.mktemp("raw") / "raw.beton", 53)


@pytest.fixture(scope="session")
def photo_set(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """12 JPEG photos of different sizes, cut out of scikit-learn's two and softened: all filters resize them alike."""
    soften = ImageFilter.GaussianBlur(6)
    photos = [np.asarray(Image.fromarray(photo).filter(soften)) for photo in sample_photos()]
    rng = np.random.default_rng(0)
    images, records = [], []
    for number in range(12):
        height, width = rng.integers(120, 400, size=2)
        encoded = encode_jpeg(np.ascontiguousarray(photos[number % 2][:height, :width]))
        images.append(np.array(Image.open(io.BytesIO(encoded))))
        records.append(EncodedImage(encoded, ImageMode.JPG, int(height), int(width)))
    path = tmp_path_factory.mktemp("photos") / "photos.beton"
    labels = np.arange(12) % 3
    write_images(path, records, labels)
    return ImageSet(path, images, labels)


@pytest.fixture(scope="session")
def broken_set(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Nine JPEGs of 32 px of which number 4 is noise behind a JPEG's first bytes."""
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(32, 32, 3), dtype=np.uint8) for _ in range(9)]
    encoded = [encode_jpeg(image) for image in images]
    encoded[4] = encoded[4][:20] + bytes(rng.integers(255, size=200, dtype=np.uint8))
    path = tmp_path_factory.mktemp("broken") / "broken.beton"
    labels = np.arange(9) % 3
    write_images(path, [EncodedImage(data, ImageMode.JPG, 32, 32) for data in encoded], labels)
    return ImageSet(path, images, labels)


@pytest.fixture(name="encode_jpeg")
def _encode_jpeg() -> Callable[[NDArray[np.uint8]], bytes]:
    return encode_jpeg


@pytest.fixture(name="write_images")
def _write_images() -> Callable[..., None]:
    return write_images


MakeSet = Callable[..., ImageSet]


@pytest.fixture(scope="session")
def make_set_in() -> MakeSet:
    """Make a raw set of one's own size in a folder."""
    return lambda folder, name, num_images, **options: make_raw_set(folder / name, num_images, **options)


@pytest.fixture
def make_set(tmp_path: Path, make_set_in: MakeSet) -> MakeSet:
    """Make a raw set of one's own size in the test's folder."""
    return partial(make_set_in, tmp_path)
