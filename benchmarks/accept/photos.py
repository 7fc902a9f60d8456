"""Images that the tool makes itself, where nobody names any."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loaders.beton import Beton, BetonWriter, EncodedImage, FieldKind, ImageMode
from tools.convert.encode_image import Chroma, ImageEncoder

__all__ = ["make_photos", "make_small_images", "with_restart_markers", "without_restart_markers", "write_records"]

_FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
_HEIGHT, _WIDTH = 375, 500  # as most of ImageNet's photos
_DIFFERENT = 32
_SMALL_SIDE, _SMALL_CLASSES = 32, 10
_MOST_REWRITTEN = 512
_RESTART_INTERVAL = b"\xff\xdd"
_SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # Pillow's numbers for it


def make_photos(path: Path, *, num_images: int, chroma: Chroma = "4:2:0", quality: int = 90) -> Path:
    """Write a `.beton` file of JPEGs of 500 x 375 px, each of at most 32 some times; returns its path."""
    random = np.random.default_rng(0)
    jpegs = [_jpeg(_scene(random), chroma, quality) for _ in range(min(_DIFFERENT, num_images // 8))]
    return write_records(path, [EncodedImage(jpeg, ImageMode.JPG, _HEIGHT, _WIDTH) for jpeg in jpegs], num_images)


def without_restart_markers(photos: Path, path: Path, *, num_images: int) -> Path:
    """Write the first 512 images of a `.beton` file of JPEGs, encoded again where they have such markers."""
    beton = Beton(photos)
    records = []
    for index in range(min(beton.num_samples, _MOST_REWRITTEN)):
        jpeg = beton.image_bytes(index).tobytes()
        if _RESTART_INTERVAL in jpeg:
            jpeg = _jpeg(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        records.append(EncodedImage(jpeg, ImageMode.JPG, int(beton.heights[index]), int(beton.widths[index])))
    return write_records(path, records, num_images)


def with_restart_markers(photos: Path, path: Path, *, num_images: int) -> Path:
    """Write the first 512 images of a `.beton` file of JPEGs so that a crop of each can be cut out: the same pixels."""
    beton = Beton(photos)
    jpegs = [beton.image_bytes(index).tobytes() for index in range(min(beton.num_samples, _MOST_REWRITTEN))]
    records = []
    for image in ImageEncoder(mode="restart").encode_all([(jpeg, "") for jpeg in jpegs]):
        if isinstance(image, Exception):
            raise image
        assert isinstance(image.data, bytes)
        records.append(EncodedImage(image.data, ImageMode.JPG, image.height, image.width))
    return write_records(path, records, num_images)


def make_small_images(path: Path, *, num_images: int, seed: int) -> Path:
    """Write a `.beton` file of raw images of 32 px of ten classes, which the colour tells; returns its path."""
    random = np.random.default_rng(seed)
    colours = np.linspace((40, 200, 90), (200, 60, 160), _SMALL_CLASSES)
    with BetonWriter(path, _FIELDS, num_samples=num_images) as writer:
        for number in range(num_images):
            label = number % _SMALL_CLASSES
            pixels = random.integers(-40, 40, (_SMALL_SIDE, _SMALL_SIDE, 3)) + colours[label]
            image = EncodedImage(pixels.astype(np.uint8).reshape(-1), ImageMode.RAW, _SMALL_SIDE, _SMALL_SIDE)
            writer.append([image, label])
    return path


def _scene(random: np.random.Generator) -> NDArray[np.uint8]:
    """Waves of many lengths, the long ones strongest as in photos, and some flat boxes with edges; [h, w, 3]."""
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)
    scene = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
    for wavelength in np.geomspace(4, 400, 12):
        angle, phase = random.uniform(0, 2 * np.pi, 2)
        wave = np.sin(2 * np.pi / wavelength * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        scene += wavelength**0.5 * wave[..., None] * random.uniform(0.3, 1, 3)
    scene = 127 + scene * 60 / scene.std()
    for _ in range(12):
        top, left = int(random.integers(_HEIGHT - 20)), int(random.integers(_WIDTH - 20))
        height, width = random.integers(10, 120, 2)
        scene[top : top + height, left : left + width] = random.integers(256, size=3)
    pixels: NDArray[np.uint8] = scene.clip(0, 255).astype(np.uint8)
    return pixels


def _jpeg(pixels: NDArray[np.uint8], chroma: Chroma = "4:2:0", quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=_SUBSAMPLING[chroma])
    return file.getvalue()


def write_records(path: Path, images: list[EncodedImage], num_records: int) -> Path:
    """A file of so many records: all images, again and again."""
    with BetonWriter(path, _FIELDS, num_samples=num_records) as writer:
        for number in range(num_records):
            writer.append([images[number % len(images)], number % _DIFFERENT])
    return path
