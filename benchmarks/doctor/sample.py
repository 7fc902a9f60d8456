"""A sample of a data set that is spread over all of it, and copies of it as our converters would store it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.beton import BetonWriter, EncodedImage, FieldKind, ImageMode
from loaders.errors import FastvitError
from loaders.shards import find_shards, shard_kind
from loaders.tar_shard import TarShard
from tools.convert.encode_image import ImageEncoder, StoredImage
from tools.sources.converted import BetonSample
from tools.sources.converted import StoredImage as ShardSample
from tools.sources.folder import FileSample
from tools.sources.registry import Dataset, open_source
from tools.sources.sample import ImageSample, ImageSource

__all__ = ["DataSet", "Place", "Sample", "copy_as_it_is", "copy_converted", "draw", "open_data_set", "place_of"]

_FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
_JPEG_START = b"\xff\xd8"
_IMAGES_PER_TASK = 8
_CANDIDATES = 4
"""How many images are looked at for one of the sample."""
_MOST_BYTES = 512 << 20
"""Of a copy."""

Image = bytes | NDArray[np.uint8]


class Place(NamedTuple):
    """Where an image's bytes lie."""

    path: Path
    offset: int
    size: int


class DataSet(NamedTuple):
    """What the loader is to load."""

    path: Path
    kind: Dataset
    images: ImageSource

    @property
    def is_mapped(self) -> bool:
        """Whether the engine reads ahead of its threads; files of a folder are read by the thread that decodes them."""
        return self.kind != "folder"


class Sample(NamedTuple):
    """Some images of a data set, as they are stored there."""

    data_set: DataSet
    images: list[Image]
    labels: list[int]

    @property
    def bytes_per_image(self) -> float:
        """Their mean size, as it is stored."""
        return sum(map(_num_bytes, self.images)) / len(self.images)

    def copies(self, num_images: float, *, bytes_per_image: float) -> int:
        """How often its images are to stand in a copy, for epochs of so many images.

        In short epochs beginnings and ends count. Epochs are no longer than those of the data set, though, and all
        copies of the images lie in memory.
        """
        wanted = ceil(min(num_images, len(self.data_set.images)) / len(self.images))
        return max(1, min(wanted, int(_MOST_BYTES / (len(self.images) * bytes_per_image))))


def _num_bytes(image: Image) -> int:
    return len(image) if isinstance(image, bytes) else image.nbytes


def open_data_set(path: Path) -> DataSet:
    """Open what `loaders.records.open_records` opens.

    Raises:
        FastvitError: It is missing, damaged, or holds no images.
    """
    if shards := find_shards(path):
        kind: Dataset = "tar" if shard_kind(shards[0]) is TarShard else "tfrecord"
    else:
        kind = "folder" if path.is_dir() else "beton"
    return DataSet(path, kind, open_source(kind, path, None))


def draw(data_set: DataSet, count: int) -> list[ImageSample]:
    """So many of the images, or all, in their order, the same ones each time: spread over the data set.

    They are spread over the sizes as well: what large images cost counts as often as there are such images.
    """
    images = data_set.images
    candidates = _spread(len(images), _CANDIDATES * count)
    by_size = sorted(candidates, key=lambda index: place_of(images[index]).size)
    return [images[index] for index in sorted(by_size[number] for number in _spread(len(by_size), count))]


def _spread(total: int, count: int) -> list[int]:
    """So many of the numbers below `total`, or all: one at random of each of equal parts."""
    if count >= total:
        return list(range(total))
    places = (np.arange(count) + np.random.default_rng(0).random(count)) * total / count
    return list(places.astype(np.int64).tolist())


def place_of(sample: ImageSample) -> Place:
    """Where an image of a `DataSet` lies."""
    match sample:
        case FileSample():
            path = Path(str(sample))
            return Place(path, 0, path.stat().st_size)
        case ShardSample(shard=file, number=number) | BetonSample(beton=file, number=number):
            return Place(file.path, int(file.offsets[number]), int(file.sizes[number]))
    raise TypeError(f"a sample of another kind: {type(sample)}")


def copy_as_it_is(sample: Sample, folder: Path, *, times: int = 1) -> Path:
    """A data set of the same kind, every image so many times: a folder for each class with copies, or one mapped file.

    What a `.beton` file cannot hold, such as PNGs of tar shards, becomes files as well.
    """
    are_files = [isinstance(image, bytes) for image in sample.images]
    are_jpegs = [isinstance(image, bytes) and image.startswith(_JPEG_START) for image in sample.images]
    if sample.data_set.is_mapped and are_jpegs == are_files:
        stored = [_stored(image) for image in sample.images]
        return _write(folder / "sample.beton", stored, sample.labels, times=times)
    for number, (image, label) in enumerate(zip(sample.images, sample.labels, strict=True)):
        file = folder / "files" / f"{label:06}" / f"{number:06}-0{'.jpg' if are_jpegs[number] else '.png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(image, bytes), "pixels lie in .beton files alone, where all else is JPEG"
        file.write_bytes(image)
        for copy in range(1, times):
            file.with_stem(f"{number:06}-{copy}").hardlink_to(file)
    return folder / "files"


def copy_converted(sample: Sample, encoder: ImageEncoder, path: Path, *, num_threads: int, num_images: float) -> Path:
    """The `.beton` file that our converter makes of the sample, as often as epochs of so many images want it.

    Images that cannot be converted are left out.
    """
    named = [(image, f"{number:08}") for number, image in enumerate(sample.images)]
    tasks = [named[start : start + _IMAGES_PER_TASK] for start in range(0, len(named), _IMAGES_PER_TASK)]
    with ThreadPoolExecutor(num_threads) as pool:
        stored = [one for some in pool.map(encoder.encode_all, tasks) for one in some]
    sizes = [_num_bytes(one.data) for one in stored if not isinstance(one, Exception)]
    times = sample.copies(num_images, bytes_per_image=sum(sizes) / max(1, len(sizes)))
    return _write(path, stored, sample.labels, times=times)


def _stored(image: Image) -> StoredImage | Exception:
    if isinstance(image, np.ndarray):
        return ImageEncoder(mode="raw").encode(image, name="")
    try:
        return ImageEncoder(mode="keep", check=False).encode(image, name="")
    except (ValueError, OSError, RuntimeError) as error:
        return error


def _write(path: Path, images: Sequence[StoredImage | Exception], labels: Sequence[int], *, times: int) -> Path:
    good = [(one, label) for one, label in zip(images, labels, strict=True) if not isinstance(one, Exception)]
    if not good:
        raise FastvitError("no image of the sample can be decoded; fastvit-data verify says what is wrong with them")
    path.parent.mkdir(parents=True, exist_ok=True)
    with BetonWriter(path, _FIELDS, num_samples=times * len(good)) as writer:
        for (data, kind, height, width, _), label in times * good:
            mode = ImageMode.RAW if kind == "raw" else ImageMode.JPG
            writer.append([EncodedImage(data, mode, height=height, width=width), label])
    return path
