"""Convert CIFAR-10 or a folder of images into FFCV's ``.beton`` format: ``python tools/write_ffcv.py --help``."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import rich.progress
import tyro
from rich.console import Console
from rich.text import Text

from loaders.atomic_file import atomic_file
from loaders.beton import DEFAULT_PAGE_SIZE, Beton, EncodedImage, FieldKind, ImageMode, write_beton
from tools.encode_image import ImageEncoder, Mode
from tools.image_sources import Cifar10, ImageFolder, ImageSample, ImageSource

FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
_CONSOLE = Console(stderr=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteFfcv:
    """Convert a data set of images into FFCV's .beton format, and write a card that describes it beside the file."""

    dataset: Literal["cifar10", "folder"]
    """`cifar10`: the files that tools/get_cifar10.py makes. `folder`: JPEG and PNG in one folder for each class."""

    source: Path
    """The folder that holds the data set."""

    out: Path
    """The file to write; its card becomes OUT.json."""

    mode: Mode | None = None
    """`keep` stores JPEG files byte for byte (what is no RGB or grey JPEG is converted, and counted); `reencode` makes
    a new JPEG of every image; `raw` stores pixels. By default `keep`, and for cifar10, which has no files, `raw`."""

    split: Literal["train", "test"] | None = None
    """The part of cifar10, by default `train`; a folder's parts are folders of their own."""

    max_side: int | None = None
    """Images with a longer side than this many pixels are made smaller, with antialiasing, and encoded again."""

    jpeg_quality: int = 90
    """The quality, 1 to 100, of every JPEG that is encoded here."""

    num_workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads that read and encode. The file does not depend on them."""

    seed: int | None = None
    """Shuffle the records by this seed; without one they keep the order of the source, sorted by class."""

    page_size: int = DEFAULT_PAGE_SIZE
    """Bytes of FFCV's pages: a power of two from 2 MiB up; no image can be larger."""

    overwrite: bool = False
    """Replace the file if it exists."""

    def __post_init__(self) -> None:
        if self.dataset == "cifar10" and self.mode == "keep":
            raise ValueError("mode keep stores files as they are, but cifar10 has no image files: use raw or reencode")
        if self.dataset != "cifar10" and self.split is not None:
            raise ValueError(f"split {self.split} belongs to cifar10 alone: let source name the folder of the split")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side must be positive, got {self.max_side}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be positive, got {self.num_workers}")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    @property
    def storage_mode(self) -> Mode:
        """The mode, with the data set's default for none."""
        return self.mode or ("raw" if self.dataset == "cifar10" else "keep")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What was written, from what, and how."""

    dataset: str
    source: str
    split: str | None
    num_images: int
    num_classes: int
    class_names: tuple[str, ...]
    num_bytes: int
    """The size of the file."""
    modes: dict[str, int]
    """How many images are stored as JPEG and how many raw."""
    treatments: dict[str, int]
    """How many images came to that in which way: see `tools.encode_image.Treatment`."""
    seconds: float
    images_per_second: float
    seed: int | None
    options: dict[str, str | int | None]

    def __str__(self) -> str:
        seed = "none: order of the source" if self.seed is None else str(self.seed)
        rows = {
            "images": f"{self.num_images:,}",
            "classes": f"{self.num_classes:,}",
            "bytes": f"{self.num_bytes:,}",
            "stored": ", ".join(f"{count:,} {mode}" for mode, count in self.modes.items()),
            "treatment": ", ".join(f"{count:,} {treatment}" for treatment, count in self.treatments.items()),
            "images/s": f"{self.images_per_second:,.0f}",
            "seconds": f"{self.seconds:.1f}",
            "seed": seed,
            "options": ", ".join(f"{name} {value}" for name, value in self.options.items() if value is not None),
        }
        return "\n".join(f"{name:11}{value}" for name, value in rows.items())


def write_ffcv(config: WriteFfcv) -> Card:
    """Convert a data set and describe the result.

    Raises:
        ValueError: The source is not as it should be, an image cannot be converted (the message names it), or the
            file exists or cannot be written. No part of it is left.
        OSError: A folder cannot be read or made, or the card cannot be written.
    """
    if config.out.exists() and not config.overwrite:
        raise ValueError(f"{config.out}: exists already; remove it, name another file, or pass --overwrite")
    source = _open_source(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    treatments = _convert(config, source)
    seconds = time.perf_counter() - started
    card = _describe(config, source, treatments, seconds)
    with atomic_file(config.out.with_name(config.out.name + ".json")) as file:
        file.write(json.dumps(asdict(card), indent=2).encode() + b"\n")
    return card


def _open_source(config: WriteFfcv) -> ImageSource:
    if config.dataset == "cifar10":
        return Cifar10(config.source, config.split or "train")
    return ImageFolder(config.source)


def _convert(config: WriteFfcv, source: ImageSource) -> Counter[str]:
    """Write the file, showing progress; count what became of the images."""
    encoder = ImageEncoder(mode=config.storage_mode, max_side=config.max_side, jpeg_quality=config.jpeg_quality)
    treatments: Counter[str] = Counter()
    lock = Lock()

    def encode(sample: ImageSample) -> tuple[EncodedImage, int]:
        image, treatment = encoder.encode(sample.load())
        with lock:
            treatments[treatment] += 1
        return image, sample.label

    order = range(len(source)) if config.seed is None else np.random.default_rng(config.seed).permutation(len(source))
    with _progress() as progress:
        task = progress.add_task(config.out.name, total=len(source))
        write_beton(
            config.out,
            FIELDS,
            (source[int(index)] for index in order),
            encode,
            num_samples=len(source),
            num_workers=config.num_workers,
            page_size=config.page_size,
            on_progress=lambda num_written: progress.update(task, completed=num_written),
        )
    return treatments


def _describe(config: WriteFfcv, source: ImageSource, treatments: Counter[str], seconds: float) -> Card:
    """Describe the file from what a reader finds in it."""
    with Beton(config.out) as beton:
        num_images = beton.num_samples
        modes = {mode.name.lower(): int((beton.modes == mode).sum()) for mode in ImageMode}
    return Card(
        dataset=config.dataset,
        source=str(config.source),
        split=(config.split or "train") if config.dataset == "cifar10" else None,
        num_images=num_images,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        num_bytes=config.out.stat().st_size,
        modes=modes,
        treatments=dict(sorted(treatments.items())),
        seconds=round(seconds, 3),
        images_per_second=round(num_images / seconds, 1),
        seed=config.seed,
        options={
            "mode": config.storage_mode,
            "max_side": config.max_side,
            "jpeg_quality": config.jpeg_quality,
            "page_size": config.page_size,
            "num_workers": config.num_workers,
        },
    )


class _ImagesPerSecond(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        """Show the speed of the last seconds, and at the end the average."""
        speed = task.finished_speed or task.speed or 0
        return Text(f"{speed:,.0f} images/s")


def _progress() -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _ImagesPerSecond(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=_CONSOLE,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""
    config = tyro.cli(WriteFfcv, args=argv)
    try:
        card = write_ffcv(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: no partial file is left", file=sys.stderr)
        return 130
    print(f"{config.out}\n{card}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
