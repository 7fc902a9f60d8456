"""Files that are odd, broken or oddly named, in a folder of images: every backend says the same of each."""

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backends import of_backend
from jpeg_builders import jpeg, photo
from loaders import BadSampleError, ImageLoader, LoaderConfig, build_loader
from loaders.image_files import decode_image
from loaders.native_loader import NativeLoader
from loaders.records import FileRecords

SIDE = 32
BACKENDS = [
    of_backend("dali", ("dali", 2)),
    of_backend("native", ("native", 2)),
    of_backend("nvjpeg", ("nvjpeg", 2)),
    of_backend("resident", ("resident", 2)),
    of_backend("torch", ("torch", 0)),
    of_backend("torch", ("torch", 1), label="torch, workers"),
]


@pytest.fixture(params=BACKENDS)
def load(request) -> Callable[..., ImageLoader]:
    backend, num_workers = request.param
    loaders = []

    def load(path: Path, **changes: object) -> ImageLoader:
        options = {"batch_size": 8, "resolution": SIDE, "crop": "whole", "order": "sequential", "drop_last": False}
        config = LoaderConfig(**(options | {"num_workers": num_workers} | changes))
        loaders.append(build_loader(backend, path, config))
        return loaders[-1]

    yield load
    for loader in loaders:
        loader.close()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder(path: Path, files: dict[str, bytes]) -> Path:
    (path / "a").mkdir()
    for name, data in files.items():
        (path / "a" / name).write_bytes(data)
    return path


PHOTO = photo(SIDE, SIDE)
WIDE = Image.fromarray(np.arange(0, 65536, 64, dtype=np.uint16).reshape(SIDE, SIDE))
GOOD = {
    "animated_gif.jpg": saved(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "bmp.jpeg": saved(PHOTO, "BMP"),
    "cmyk.jpg": jpeg(PHOTO.convert("CMYK")),
    "grey_16_bits.png": saved(WIDE, "PNG"),
    "no_end_marker.jpg": jpeg(PHOTO)[:-2] + b"trailer",
    "progressive_without_end_marker.jpg": jpeg(PHOTO, progressive=True)[:-2],
    "tiff.tif": saved(PHOTO, "TIFF"),
    "webp.webp": saved(PHOTO, "WEBP"),
}


def test_all_backends_read_what_decode_image_reads(load, tmp_path):
    loader = load(folder(tmp_path, GOOD))
    (batch,) = loader
    for name, image in zip(sorted(GOOD), batch.images, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), decode_image(GOOD[name]), err_msg=name)


def damaged_png() -> bytes:
    """With another checksum of its pixels, such as one decoder crashed at."""
    data = bytearray(saved(PHOTO, "PNG"))
    data[data.index(b"IEND") - 5] ^= 1
    return bytes(data)


def large_ppm() -> bytes:
    return b"P6 60000 60000 255\n" + bytes(100)


BAD = {
    "checksum.png": (damaged_png(), "the PNG is damaged or cut short: a checksum of its pixels is wrong"),
    "cut.jpg": (jpeg(PHOTO)[:-30], "Corrupt JPEG data: premature end of data segment"),
    "cut.png": (saved(PHOTO, "PNG")[:-300], "the PNG is damaged or cut short: a checksum of its pixels is wrong"),
    "empty.png": (b"", "the file is empty"),
    "html.jpg": (b"<html>", "it is none of JPEG, PNG, WebP, GIF, BMP, TIFF, PPM"),
    "large.ppm": (large_ppm(), "the PPM has 60000 x 60000 pixels; at most 178,956,970 are read, and 65,535 on a side"),
}


def test_all_backends_give_the_same_reasons(load, tmp_path):
    path = folder(tmp_path, {name: data for name, (data, _) in BAD.items()} | {"z.jpg": jpeg(PHOTO)})
    loader = load(path, on_error="skip")
    (batch,) = loader
    assert batch.index.tolist() == [len(BAD)]
    reasons = {Path(sample.name).name: sample.reason for sample in loader.skipped}
    assert reasons == {name: reason for name, (_, reason) in BAD.items()}


def test_bytes_of_a_name_that_are_no_text(load, tmp_path):
    folder(tmp_path, {})
    for name, data in ((b"good\xe9.jpg", jpeg(PHOTO)), (b"bad\xe9.jpg", jpeg(PHOTO)[:300])):
        Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/" + name)).write_bytes(data)
    loader = load(tmp_path, on_error="skip")
    (batch,) = loader
    assert batch.index.tolist() == [1]
    (skipped,) = loader.skipped
    assert skipped.name == rf"{tmp_path}/a/bad\xe9.jpg"
    with pytest.raises(BadSampleError) as raised:
        list(load(tmp_path))
    str(raised.value).encode("ascii")


def test_resident_names_an_image_where_it_can_decode_none(tmp_path):
    path = folder(tmp_path, {name: data for name, (data, _) in BAD.items()})
    options = {"batch_size": 1, "resolution": SIDE, "crop": "whole", "order": "sequential", "drop_last": False}
    with pytest.raises(ValueError, match=r"can be decoded, such as .*/a/[a-z]+\.[a-z]+: "):
        build_loader("resident", path, LoaderConfig(**options, num_workers=1))


def test_what_is_no_jpeg_is_decoded_by_several_threads(tmp_path, monkeypatch):
    path = folder(tmp_path, {f"{number}.png": saved(PHOTO, "PNG") for number in range(4)} | {"4.jpg": jpeg(PHOTO)})
    both = threading.Barrier(2, timeout=30)
    decode = FileRecords.decode

    def decode_in_pairs(records: FileRecords, index: int, **options: Any) -> object:
        both.wait()  # breaks where one thread decodes one image after the other
        return decode(records, index, **options)

    monkeypatch.setattr(FileRecords, "decode", decode_in_pairs)
    options = {"batch_size": 5, "resolution": SIDE, "crop": "whole", "order": "sequential", "drop_last": False}
    loader = NativeLoader(path, LoaderConfig(**options, num_workers=2))
    (batch,) = loader
    assert batch.index.tolist() == [0, 1, 2, 3, 4]
    for image in batch.images[:4]:
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(PHOTO))
    loader.close()


def test_a_path_may_be_text(tmp_path):
    path = folder(tmp_path, {"1.jpg": jpeg(PHOTO)})
    options = {"batch_size": 1, "resolution": SIDE, "crop": "whole", "order": "sequential", "drop_last": False}
    loader = build_loader("native", str(path), LoaderConfig(**options))
    assert len(loader) == 1
    loader.close()
