"""Damaged `.beton` files through the reader and the engine, built with sanitizers.

Each is refused by name, or every one of its samples is decoded or listed as skipped.
    fuzz_beton.py NUM_FILES    prints how many were refused and what became of the samples of the others
"""

import io
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loaders import LoaderConfig, _native
from loaders.beton import Beton, BetonWriter, EncodedImage, FieldKind, ImageMode
from loaders.native_loader import NativeLoader

SECONDS_PER_FILE = 30
CROPS = ("random_resized", "center", "whole", "shift")
EXTREMES = [0, 1, 2, 255, 256, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def records(random: np.random.Generator) -> list[EncodedImage]:
    """JPEGs of several kinds and raw pixels."""
    made = []
    for number, (height, width) in enumerate([(40, 50), (97, 131), (16, 16), (1, 1), (64, 33), (120, 90)]):
        noise = random.integers(40, 215, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
        pixels = noise[:height, :width].astype(np.uint8)
        file = io.BytesIO()
        image = Image.fromarray(pixels).convert("L" if number == 4 else "RGB")
        image.save(file, "JPEG", quality=90, subsampling=number % 3 if number != 4 else -1, progressive=number == 5)
        data = file.getvalue()
        made.append(EncodedImage(data, ImageMode.JPG, height, width))
        if number < 2:
            data = _native.add_restart_markers(np.frombuffer(data, np.uint8), 2)
            made.append(EncodedImage(data, ImageMode.JPG, height, width))
        made.append(EncodedImage(pixels, ImageMode.RAW, height, width))
    return made


def write(path: Path, random: np.random.Generator) -> None:
    """One sound file."""
    images = records(random)
    with BetonWriter(
        path, {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}, num_samples=len(images), page_size=1 << 21
    ) as writer:
        for label, image in enumerate(images):
            writer.append([image, label])


class Mutator:
    """Damages copies of one file, most often where its numbers are."""

    def __init__(self, path: Path, random: np.random.Generator) -> None:
        self._whole = np.fromfile(path, np.uint8)
        self._random = random
        beton = Beton(path)
        self._pages = pages = int(beton.offsets.min())
        pages_end = int((beton.offsets + beton.sizes).max())
        tables_end = 24 + 2 * 1041 + beton.metadata.nbytes
        # Header, fields and records; images; the allocation table.
        self._parts = [(0, tables_end), (24 + 2 * 1041, tables_end), (pages, pages_end), (pages_end, len(self._whole))]

    def __call__(self) -> NDArray[np.uint8]:
        """A damaged copy, in memory of just its size."""
        random, data = self._random, self._whole
        kind = random.integers(10)
        if kind == 0:
            return data[: random.integers(len(data))].copy()
        if kind == 1:
            return np.concatenate([data, random.integers(256, size=random.integers(1, 100), dtype=np.uint8)])
        data = data.copy()
        begin, end = self._parts[random.integers(len(self._parts))]
        for _ in range(random.integers(1, 30 if begin == self._pages else 4)):
            if kind < 6:
                data[random.integers(begin, end)] = random.integers(256)
                continue
            # A whole number, now and then one that is almost right.
            size = int(random.choice([2, 4, 8]))
            at = int(random.integers(begin, max(begin + 1, end - size)))
            value = int.from_bytes(data[at : at + size].tobytes(), "little") + int(random.integers(-3, 4))
            if random.integers(2):
                value = EXTREMES[random.integers(len(EXTREMES))]
            data[at : at + size] = np.frombuffer((value % 2 ** (8 * size)).to_bytes(size, "little"), np.uint8)
        return data


def load(path: Path, crop: str, resolution: int, num_threads: int) -> tuple[int, int]:
    """How many samples of an epoch were decoded and how many were skipped."""
    config = LoaderConfig(
        batch_size=4,
        resolution=resolution,
        crop=crop,  # type: ignore[arg-type]
        order="random",
        drop_last=False,
        num_workers=num_threads,
        on_error="skip",
    )
    loader = NativeLoader(path, config)
    decoded = sum(len(batch.index) for batch in loader)
    skipped = len(loader.skipped)
    loader.close()
    assert decoded + skipped == Beton(path).num_samples, "a sample was lost"
    return decoded, skipped


def main() -> None:
    """Damage files and load them."""
    if b"__asan_init" not in Path(_native.__file__).read_bytes():
        sys.exit(f"{_native.__file__} was built without AddressSanitizer; run: make sanitize")
    num_files = int(sys.argv[1])
    random = np.random.default_rng(1)
    refused = decoded = skipped = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.beton"
        write(path, random)
        assert load(path, "whole", 32, 2)[1] == 0, "a sound file must load"
        mutate = Mutator(path, random)
        for number in range(num_files):
            data = mutate()
            # Not mapped: behind the end of this memory the sanitizer sees every access.
            _native.map_file = lambda _, data=data: data  # type: ignore[misc]
            signal.alarm(SECONDS_PER_FILE)  # a hang ends the process
            try:
                good, bad = load(path, CROPS[number % len(CROPS)], int(random.integers(9, 70)), 1 + number % 3)
                decoded += good
                skipped += bad
            except ValueError:
                refused += 1
    print(
        f"{num_files} mutated .beton files: {refused} refused by name; of the others' samples {decoded} decoded, "
        f"{skipped} skipped by name"
    )


if __name__ == "__main__":
    main()
