"""The files that `fastvit-bench suite` measures, made of the same photos: each is made when it is first asked for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.accept.photos import make_photos, make_small_images, write_records
from benchmarks.bench_imread import read_jpegs
from benchmarks.harness import say
from loaders import _native
from loaders.beton import EncodedImage, ImageMode
from loaders.cpus import usable_cpus
from tools.convert.encode_image import read_jpeg_header
from tools.write_ffcv import WriteFfcv, write_ffcv

__all__ = ["SuiteData"]

_CIFAR10 = Path("data/cifar10_train.beton")
_NUM_MADE = 256
_NUM_SMALL = 50_000  # as many as CIFAR-10 has
_MAX_SIDE = 500
_RAW_MIN_SIDE = 256
_QUALITY_OF_ORIGINALS = 99  # made photos of it have as many bytes a pixel as ImageNet's


class SuiteData:
    """Files of the same photos, each in the form that a case of the suite reads.

    Args:
        folder: Where to write.
        photos: A `.beton` file of JPEGs or a folder of them; None for photos that are made here, everywhere the same.
        num_images: Of each file; fewer photos stand in it several times.

    Raises:
        FastvitError: The photos are no JPEGs.
    """

    def __init__(self, folder: Path, photos: Path | None, num_images: int) -> None:
        self._folder, self._num_images = folder, num_images
        if photos is None:
            photos = make_photos(folder / "made.beton", num_images=_NUM_MADE, quality=_QUALITY_OF_ORIGINALS)
        self._jpegs = read_jpegs(photos, num_images).files

    @cached_property
    def original(self) -> Path:
        """The photos as they are."""
        return self._write("original", _kept)

    @cached_property
    def small(self) -> Path:
        """JPEGs of at most 500 px, quality 90, 4:2:0."""
        return self._write("500px", _encoded)

    @cached_property
    def restart(self) -> Path:
        """The same pixels, with restart markers."""
        return self._convert(self.small, "500px_restart", mode="restart")

    @cached_property
    def raw(self) -> Path:
        """Pixels, 256 on the shorter side."""
        return self._convert(self.small, "raw256", mode="raw", min_side=_RAW_MIN_SIDE)

    @cached_property
    def cifar10(self) -> Path:
        """CIFAR-10 where it was fetched; else images of its size, made here."""
        if _CIFAR10.is_file():
            return _CIFAR10.resolve()
        say("making images of 32 px")
        return make_small_images(self._folder / "made32.beton", num_images=_NUM_SMALL, seed=0)

    def _write(self, name: str, stored: Callable[[bytes], EncodedImage]) -> Path:
        say(f"writing {name}.beton")
        with ThreadPoolExecutor(usable_cpus()) as pool:
            records = list(pool.map(stored, self._jpegs))
        return write_records(self._folder / f"{name}.beton", records, self._num_images)

    def _convert(
        self, source: Path, name: str, *, mode: Literal["restart", "raw"], min_side: int | None = None
    ) -> Path:
        out = self._folder / f"{name}.beton"
        write_ffcv(WriteFfcv(dataset="beton", source=source, out=out, mode=mode, min_side=min_side))
        return out


def _kept(jpeg: bytes) -> EncodedImage:
    height, width, _ = read_jpeg_header(jpeg)
    return EncodedImage(jpeg, ImageMode.JPG, height, width)


def _encoded(jpeg: bytes) -> EncodedImage:
    """As the converter's `reencode` does, but without restart markers: those are a case of their own."""
    encoded, height, width = _native.reencode_jpeg(
        np.frombuffer(jpeg, np.uint8), max_side=_MAX_SIDE, min_side=0, quality=90, chroma=(2, 2), restart_interval=0
    )
    return EncodedImage(encoded, ImageMode.JPG, height, width)
