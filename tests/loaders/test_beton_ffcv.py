"""Files written here and read by FFCV, and the other way round."""

import filecmp
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jpeg_builders import sample_photos
from loaders.beton import MIN_PAGE_SIZE, Beton, BetonWriter, EncodedImage, FieldKind, ImageMode
from tools.sources.cifar10 import read_cifar10
from tools.write_ffcv import WriteFfcv
from tools.write_ffcv import write_ffcv as convert

pytest.importorskip("ffcv", exc_type=ImportError)
from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.fields.rgb_image import encode_jpeg
from ffcv.loader import Loader, OrderOption
from ffcv.memory_managers import OSCacheManager
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter

# FFCV's writer waits for ever for a worker that died, and its loader for an operation that failed.
pytestmark = pytest.mark.timeout(300)

FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT, "weight": FieldKind.FLOAT}
JPEG_QUALITY = 90


def cifar_like(num_images: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8))


def photos(num_images: int) -> list[np.ndarray]:
    """Pieces of scikit-learn's two photos, of many shapes."""
    rng = np.random.default_rng(1)
    sources = sample_photos()
    pieces = []
    for index in range(num_images):
        full_height, full_width = sources[index % 2].shape[:2]
        height, width = int(rng.integers(1, full_height + 1)), int(rng.integers(1, full_width + 1))
        top, left = rng.integers(0, full_height - height + 1), rng.integers(0, full_width - width + 1)
        pieces.append(np.ascontiguousarray(sources[index % 2][top : top + height, left : left + width]))
    return pieces


def encoded(image: np.ndarray, mode: ImageMode) -> EncodedImage:
    """As FFCV stores it: its own encoder makes the JPEG."""
    data = encode_jpeg(image, JPEG_QUALITY) if mode is ImageMode.JPG else image
    return EncodedImage(data, mode, image.shape[0], image.shape[1])


def write_ours(path: Path, images: Sequence[EncodedImage]) -> None:
    with BetonWriter(path, FIELDS, num_samples=len(images), page_size=MIN_PAGE_SIZE) as writer:
        for index, image in enumerate(images):
            writer.append((image, index, index / 7))


def write_ffcv(path: Path, images: Sequence[np.ndarray], field: RGBImageField, *, num_workers: int) -> None:
    samples = [(image, index, index / 7) for index, image in enumerate(images)]
    fields = {"image": field, "label": IntField(), "weight": FloatField()}
    writer = DatasetWriter(str(path), fields, page_size=MIN_PAGE_SIZE, num_workers=num_workers)
    writer.from_indexed_dataset(samples, chunksize=7)


def read_ffcv(path: Path) -> Iterator[tuple[np.void, bytes]]:
    """Each record's metadata and image, found as FFCV finds them."""
    reader = Reader(str(path))
    sizes = OSCacheManager(reader).ptr_to_size
    content = np.memmap(path, np.uint8, mode="r")
    for row in reader.metadata:
        offset = row["f0"]["data_ptr"]
        yield row, content[offset : offset + sizes[offset]].tobytes()


def assert_read_by_ffcv(path: Path, images: Sequence[EncodedImage]) -> None:
    rows = list(read_ffcv(path))
    assert len(rows) == len(images)
    for index, ((row, data), image) in enumerate(zip(rows, images, strict=True)):
        assert data == bytes(memoryview(image.data).cast("B"))
        assert (row["f0"]["mode"], row["f0"]["height"], row["f0"]["width"]) == image[1:]
        assert (row["f1"], row["f2"]) == (index, index / 7)


MODES = {"raw": [ImageMode.RAW], "jpg": [ImageMode.JPG], "mixed": [ImageMode.JPG, ImageMode.RAW, ImageMode.RAW]}


@pytest.mark.parametrize("modes", MODES.values(), ids=MODES)
@pytest.mark.parametrize("make_images", [cifar_like, photos])
def test_ours_read_by_ffcv(tmp_path: Path, make_images, modes: list[ImageMode]):
    images = [encoded(image, modes[index % len(modes)]) for index, image in enumerate(make_images(60))]
    write_ours(tmp_path / "ours.beton", images)
    assert_read_by_ffcv(tmp_path / "ours.beton", images)


@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_ours_is_ffcvs_byte_for_byte(tmp_path: Path, mode: str):
    images = [*cifar_like(700), *photos(20)]
    write_ours(tmp_path / "ours.beton", [encoded(image, MODES[mode][0]) for image in images])
    write_ffcv(tmp_path / "ffcv.beton", images, RGBImageField(mode, jpeg_quality=JPEG_QUALITY), num_workers=1)
    assert filecmp.cmp(tmp_path / "ours.beton", tmp_path / "ffcv.beton", shallow=False)


@pytest.mark.parametrize(
    "mode", [pytest.param("raw", marks=pytest.mark.slow), pytest.param("jpg", marks=pytest.mark.slow), "proportion"]
)
def test_ffcvs_read_by_us(tmp_path: Path, mode: str):
    """What several workers wrote, whose pages come in any order; one worker's file is ours, byte for byte."""
    images = [*cifar_like(1000), *photos(20)]  # raw, both take several pages
    write_ffcv(tmp_path / "ffcv.beton", images, RGBImageField(mode, jpeg_quality=JPEG_QUALITY), num_workers=3)
    with Beton(tmp_path / "ffcv.beton") as beton:
        assert beton.page_size == MIN_PAGE_SIZE
        assert beton.field_names == ("image", "label", "weight")
        expected_modes = {"raw": {ImageMode.RAW}, "jpg": {ImageMode.JPG}, "proportion": set(ImageMode)}
        assert set(beton.modes) == expected_modes[mode]
        np.testing.assert_array_equal(beton.labels, np.arange(len(images)))
        np.testing.assert_array_equal(beton.metadata["weight"], np.arange(len(images)) / 7)
        for index, image in enumerate(images):
            expected = encoded(image, ImageMode(beton.modes[index]))
            assert (beton.heights[index], beton.widths[index]) == image.shape[:2]
            np.testing.assert_array_equal(beton.image_bytes(index), expected.data.reshape(-1))


def test_ffcvs_other_fields_are_read_past(tmp_path: Path):
    fields = {
        "text": BytesField(),
        "box": NDArrayField(np.dtype("float32"), (4,)),
        "label": IntField(),
        "photo": RGBImageField(),
        "about": JSONField(),
    }
    images = cifar_like(9)
    samples = [
        (np.frombuffer(b"abc"[: index % 3 + 1], np.uint8), np.zeros(4, np.float32), index, image, {"a": 1})
        for index, image in enumerate(images)
    ]
    DatasetWriter(str(tmp_path / "ffcv.beton"), fields, num_workers=1).from_indexed_dataset(samples)
    with Beton(tmp_path / "ffcv.beton") as beton:
        assert beton.field_names == tuple(fields)
        np.testing.assert_array_equal(beton.labels, np.arange(9))
        stored = np.stack([beton.image_bytes(index).reshape(32, 32, 3) for index in range(9)])
        np.testing.assert_array_equal(stored, images)
        np.testing.assert_array_equal(beton.metadata["text"]["size"], [1, 2, 3] * 3)


def pillow_decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def load_ffcv(path: Path, decoder: SimpleRGBImageDecoder, **options) -> tuple[np.ndarray, np.ndarray]:
    pipelines = {"image": [decoder], "weight": None}
    loader = Loader(str(path), batch_size=16, num_workers=2, drop_last=False, pipelines=pipelines, **options)
    batches = [(images.copy(), labels.clone()) for images, labels in loader]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels[:, 0] for _, labels in batches])


@pytest.mark.slow  # FFCV compiles
def test_ffcvs_loader_decodes_ours(tmp_path: Path):
    """Photos of many sizes, JPEG and raw, through FFCV's decoding pipeline: a centre crop that resizes nothing."""
    crop = 64
    sides = np.random.default_rng(2).integers(crop, 400, 30)
    china = sample_photos()[0]
    pixels = [china[:side, 100 : 100 + crop] if side % 3 else china[:crop, 100 : 100 + side] for side in sides]
    images = [encoded(np.ascontiguousarray(image), ImageMode(index % 2)) for index, image in enumerate(pixels)]
    write_ours(tmp_path / "ours.beton", images)
    loaded, labels = load_ffcv(tmp_path / "ours.beton", CenterCropRGBImageDecoder((crop, crop), 1.0), os_cache=True)
    np.testing.assert_array_equal(labels, np.arange(len(images)))
    for image, original, cropped in zip(images, pixels, loaded, strict=True):
        full = original if image.mode is ImageMode.RAW else pillow_decode(image.data)
        top, left = (full.shape[0] - crop) // 2, (full.shape[1] - crop) // 2
        difference = np.abs(full[top : top + crop, left : left + crop].astype(int) - cropped)
        if image.mode is ImageMode.RAW:
            assert difference.max() == 0
        else:  # FFCV asks libjpeg for its fast inverse DCT, Pillow for the accurate one
            assert difference.max() <= 16
            assert difference.mean() <= 2


@pytest.mark.slow  # FFCV compiles
def test_ffcvs_page_cache_reads_ours(tmp_path: Path):
    """FFCV's own cache loads page by page, in an order that follows the pages of the allocation table."""
    images = cifar_like(2000)
    write_ours(tmp_path / "ours.beton", [encoded(image, ImageMode.RAW) for image in images])
    loaded, labels = load_ffcv(
        tmp_path / "ours.beton", SimpleRGBImageDecoder(), os_cache=False, order=OrderOption.QUASI_RANDOM, seed=3
    )
    np.testing.assert_array_equal(np.sort(labels), np.arange(2000))
    assert (labels != np.arange(2000)).any()
    np.testing.assert_array_equal(loaded, np.stack(images)[labels])


def high_images(heights: Sequence[int]) -> list[np.ndarray]:
    """64 pixels wide: a centre crop of 64 pixels resizes nothing."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (height, 64, 3), dtype=np.uint8) for height in heights]


@pytest.mark.slow  # FFCV compiles
def test_ffcvs_page_cache_reads_pages_that_grew(tmp_path: Path):
    """Images larger than a page of 2 MiB among others: FFCV's cache needs each one in one page of the file."""
    images = high_images([*range(64, 3000, 50), 11_000, 64, 30_000, 9_000, *range(64, 10_000, 500)])
    write_ours(tmp_path / "ours.beton", [encoded(image, ImageMode.RAW) for image in images])
    with Beton(tmp_path / "ours.beton") as beton:
        assert beton.page_size == 2**23
    decoder = CenterCropRGBImageDecoder((64, 64), 1.0)
    options = {"os_cache": False, "order": OrderOption.QUASI_RANDOM, "seed": 3}
    loaded, labels = load_ffcv(tmp_path / "ours.beton", decoder, **options)
    np.testing.assert_array_equal(np.sort(labels), np.arange(len(images)))
    for label, cropped in zip(labels, loaded, strict=True):
        top = (images[label].shape[0] - 64) // 2
        np.testing.assert_array_equal(cropped, images[label][top : top + 64])


needs_photos = pytest.mark.skipif("FASTVIT_DATA" not in os.environ, reason="FASTVIT_DATA names no folder of photos")


@needs_photos
def test_real_photos_there_and_back(tmp_path: Path):
    """500 ImageNet photos: kept as they are by our tool and read by FFCV; written by FFCV and read by us."""
    folder = Path(os.environ["FASTVIT_DATA"], "imagenet_sample", "train")
    config = WriteFfcv(dataset="folder", source=folder, out=tmp_path / "ours.beton", mode="keep")
    _, card = convert(config)
    assert card.treatments == {"kept": 500}
    files = sorted(folder.glob("*/*"))
    assert [data for _, data in read_ffcv(config.out)] == [file.read_bytes() for file in files]

    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    write_ffcv(tmp_path / "ffcv.beton", pixels, RGBImageField("jpg", jpeg_quality=JPEG_QUALITY), num_workers=2)
    with Beton(tmp_path / "ffcv.beton") as beton:
        stored = [beton.image_bytes(index).tobytes() for index in range(500)]
    assert stored == [encode_jpeg(image, JPEG_QUALITY).tobytes() for image in pixels]


CIFAR10 = Path("data/cifar10")


@pytest.mark.skipif(not CIFAR10.exists(), reason="there is no data/cifar10: `make train` fetches it")
@pytest.mark.parametrize("split", ["train", "test"])
def test_all_of_cifar10_there_and_back(tmp_path: Path, split):
    """All 60,000 images and labels: written by our tool and read by FFCV; written by FFCV and read by us."""
    images, labels = read_cifar10(CIFAR10, split)
    config = WriteFfcv(dataset="cifar10", source=CIFAR10, split=split, out=tmp_path / "ours.beton")
    _, card = convert(config)
    assert card.num_images == len(labels) == {"train": 50_000, "test": 10_000}[split]
    rows, stored = zip(*read_ffcv(config.out), strict=True)
    assert b"".join(stored) == images.tobytes()
    assert [row["f1"] for row in rows] == labels.tolist()

    writer = DatasetWriter(str(tmp_path / "ffcv.beton"), {"image": RGBImageField(), "label": IntField()}, num_workers=2)
    writer.from_indexed_dataset(list(zip(images, labels.tolist(), strict=True)))
    with Beton(tmp_path / "ffcv.beton") as beton:
        assert b"".join(beton.image_bytes(index).tobytes() for index in range(len(labels))) == images.tobytes()
        assert np.array_equal(beton.labels, labels)
