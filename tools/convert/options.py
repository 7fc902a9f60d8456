"""Options that all converters share: what to convert, and what to make of its images."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loaders.cpus import usable_cpus
from loaders.errors import FastvitError
from loaders.orientation import ExifOrientation
from tools.convert.encode_image import Chroma, ImageEncoder, Mode
from tools.sources.registry import Dataset, named_columns

__all__ = ["ConversionOptions", "OnError", "parse_part", "part_path"]

OnError = Literal["stop", "skip"]

_DEFAULT_MAX_SIDE = 500
_PART = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionOptions:
    """What to convert, and what to make of its images."""

    dataset: Dataset
    """`folder`: JPEG and PNG in one folder for each class. `imagenet`: ILSVRC2012's archives as they are. `tar`:
    WebDataset's shards. `tfrecord`: TensorFlow's. `parquet`: Hugging Face's. `beton`: a converted file. `cifar10`: what
    tools/get_cifar10.py makes."""

    source: Path
    """Where the data set lies; a pattern of files for tar, tfrecord and parquet."""

    split: str | None = None
    """The part of `cifar10` (train, test) or `imagenet` (train, val); the parts of others have paths of their own."""

    image_column: str | None = None
    """The column of parquet files that holds the images, where it is none of image, img, jpg, jpeg, png, webp."""

    label_column: str | None = None
    """The column with the labels, integers or text, where it is none of label, labels, fine_label, cls."""

    manifest: Path | None = None
    """Convert the images that this file names, which fastvit-data make-subset made."""

    max_side: int | None = None
    """Images with a longer side than this many pixels are made smaller, with antialiasing, and encoded again; 0 leaves
    all as they are. By default 500 where images are decoded anyway."""

    min_side: int | None = None
    """The same for the shorter side."""

    jpeg_quality: int = 90
    """The quality, 1 to 100, of every JPEG that is encoded here."""

    chroma: Chroma = "4:2:0"
    """How finely these store colours: 4:2:0, at half the resolution, decodes fastest."""

    exif_orientation: ExifOrientation = "ignore"
    """`apply` turns images upright as their EXIF data says, which photos of phones need; `ignore` stores them as they
    lie. `keep` and `restart` decode and encode only what is to be turned."""

    num_workers: int = field(default_factory=usable_cpus)
    """Threads that read and encode. The files do not depend on them."""

    seed: int | None = None
    """Shuffle the images by this seed, as quasi-random reading of data larger than memory wants; without one they keep
    the order of the source."""

    part: str | None = None
    """Convert one part of the images alone, such as 2/8; fastvit-data merge joins the parts."""

    on_error: OnError = "stop"
    """An image that cannot be converted ends the conversion by name, or is left out and listed in the card."""

    check: bool = True
    """With `keep`: decode each JPEG to see that it can be, before it is stored. Without, copying takes a fraction of
    the time, and damaged images come to light in training or with fastvit-data verify."""

    resume: bool = False
    """Continue where an interrupted conversion ended, with the same options but for those that change no image:
    `num_workers`, `on_error`, `check`, and a larger `page_size`."""

    overwrite: bool = False
    """Replace what exists."""

    def __post_init__(self) -> None:
        for name, end in (("max_side", 2**16), ("min_side", 2**16), ("seed", 2**64)):
            if (value := getattr(self, name)) is not None and not 0 <= value < end:
                raise FastvitError(f"{name} must lie in [0, {end}), got {value}")
        if not 1 <= self.jpeg_quality <= 100:
            raise FastvitError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
        if self.num_workers < 1:
            raise FastvitError(f"num_workers must be positive, got {self.num_workers}")
        if self.part is not None:
            parse_part(self.part)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named."""
        return named_columns(image=self.image_column, label=self.label_column)

    def encoder(self, mode: Mode, *, raw_fraction: float = 0.5) -> ImageEncoder:
        """What encodes the images in `mode`.

        Raises:
            FastvitError: An option is for another mode.
        """
        if not self.check and mode != "keep":
            raise FastvitError(f"--no-check is for mode keep: mode {mode} reads every image anyway; leave it out")
        max_side = self.max_side
        if max_side is None and mode not in ("keep", "restart"):
            max_side = _DEFAULT_MAX_SIDE
        return ImageEncoder(
            mode=mode,
            max_side=max_side or None,
            min_side=self.min_side or None,
            jpeg_quality=self.jpeg_quality,
            chroma=self.chroma,
            raw_fraction=raw_fraction,
            exif_orientation=self.exif_orientation,
            check=self.check,
        )


def parse_part(text: str) -> tuple[int, int]:
    """Read the number of a part, from 1, and how many there are: ``2/8``.

    Raises:
        FastvitError: It is none.
    """
    found = _PART.fullmatch(text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise FastvitError(f"part must be NUMBER/COUNT with a number from 1 to the count, such as 2/8, got {text!r}")
    return number, count


def part_path(path: Path, part: tuple[int, int] | None) -> Path:
    """The name of a part of the file `path`: train.beton becomes train.part-2-of-8.beton."""
    return path.with_name(f"{path.stem}.part-{part[0]}-of-{part[1]}{path.suffix}") if part else path
