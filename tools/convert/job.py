"""What all converters share: which images in which order, encoding on many threads, and what came of it.

A conversion is a `Job`: positions in a source, in writing order. `encode_all` turns its samples into `Encoded` ones, in
order; what each became is a line of the record list, from which an interrupted conversion goes on.
"""

import hashlib
import os
import re
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.order import epoch_order
from tools.convert.encode_image import Chroma, ImageEncoder, Mode, StoredImage
from tools.listings.card import Card
from tools.listings.manifest import manifest_line, read_manifest
from tools.listings.record_list import RecordLine, SkippedLine
from tools.sources.registry import Dataset, ImageSample, ImageSource, default_split, open_source

_DEFAULT_MAX_SIDE = 500
# Handing samples to threads one by one would cost as much as copying a JPEG.
_SAMPLES_PER_TASK = 8
_TASKS_PER_WORKER = 3
_PART = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionOptions:
    """What to convert, and what to make of its images."""

    dataset: Dataset
    """`folder`: JPEG and PNG in one folder for each class. `imagenet`: ILSVRC2012's archives as they are. `tar`:
    WebDataset's shards. `parquet`: Hugging Face's. `beton`: a converted file. `cifar10`: what tools/get_cifar10.py
    makes."""

    source: Path
    """Where the data set lies; a pattern of files for tar and parquet."""

    split: str | None = None
    """The part of `cifar10` (train, test) or `imagenet` (train, val); the parts of others have paths of their own."""

    manifest: Path | None = None
    """Convert the images that this file names, which tools/make_subset.py made."""

    max_side: int | None = None
    """Images with a longer side than this many pixels are made smaller, with antialiasing, and encoded again; 0 leaves
    all as they are. By default 500 where images are decoded anyway."""

    min_side: int | None = None
    """The same for the shorter side."""

    jpeg_quality: int = 90
    """The quality, 1 to 100, of every JPEG that is encoded here."""

    chroma: Chroma = "4:2:0"
    """How finely these store colours: 4:2:0, at half the resolution, decodes fastest."""

    num_workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Threads that read and encode. The files do not depend on them."""

    seed: int | None = None
    """Shuffle the images by this seed, as quasi-random reading of data larger than memory wants; without one they keep
    the order of the source."""

    part: str | None = None
    """Convert one part of the images alone, such as 2/8; tools/merge.py joins the parts."""

    on_error: Literal["stop", "skip"] = "stop"
    """An image that cannot be converted ends the conversion by name, or is left out and listed in the card."""

    resume: bool = False
    """Go on where an interrupted conversion with the same options ended."""

    overwrite: bool = False
    """Replace what exists."""

    def __post_init__(self) -> None:
        for name, end in (("max_side", 2**16), ("min_side", 2**16), ("seed", 2**64)):
            if (value := getattr(self, name)) is not None and not 0 <= value < end:
                raise ValueError(f"{name} must lie in [0, {end}), got {value}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be positive, got {self.num_workers}")
        if self.part is not None:
            _parse_part(self.part)

    def encoder(self, mode: Mode, *, raw_fraction: float = 0.5) -> ImageEncoder:
        """What encodes the images in `mode`."""
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
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """The images to convert, in writing order."""

    source: ImageSource
    positions: NDArray[np.int64]
    """Indices into `source`, int64 [n]: all, or those of the part."""
    first: int
    """How many images come before these, in the parts before."""
    num_planned: int
    """How many images all parts have together."""
    part: tuple[int, int] | None
    """Number of the part, from 1, and how many there are."""
    identity: dict[str, Any]
    """Options that decide the bytes, and a digest of the images' labels and names, in JSON types: the same for all
    parts and for a resumed conversion. It does not know whether images of these names have changed."""

    def __len__(self) -> int:
        return len(self.positions)

    def samples(self, start: int = 0) -> Iterator[ImageSample]:
        """The samples from number `start` on."""
        for position in self.positions[start:].tolist():
            yield self.source[position]


def plan(options: ConversionOptions, *, group_size: int = 1, settings: dict[str, Any]) -> Job:
    """Open the source and decide which images are converted in which order.

    Args:
        options: The conversion.
        group_size: Parts begin at multiples of so many images.
        settings: What else decides the bytes, for the job's identity.

    Raises:
        ValueError: Source, manifest or part are not as they should be.
        OSError: The source cannot be read.
        ImportError: The source needs a library that is not installed.
    """
    source = open_source(options.dataset, options.source, options.split)
    if options.seed is not None and not source.random_access:
        raise ValueError(
            f"{options.source}: {options.dataset} is quick to read in its own order alone, not in that of a seed; "
            "convert it without one, then convert the result, --dataset beton or tar, with --seed"
        )
    chosen = read_manifest(options.manifest).positions_in(source) if options.manifest else np.arange(len(source))
    if not len(chosen):
        raise ValueError(f"{options.manifest or options.source}: no images to convert")
    identity = {
        "dataset": options.dataset,
        "split": options.split or default_split(options.dataset),
        "images_sha256": _sha256(source, chosen),
        "seed": options.seed,
        **settings,
    }
    if options.seed is not None:
        size = len(chosen)
        chosen = chosen[epoch_order("random", size=size, seed=options.seed, epoch=0, start=0, stop=size)]
    part = _parse_part(options.part) if options.part else None
    first, num_planned = 0, len(chosen)
    if part:
        number, count = part
        num_groups = -(-num_planned // group_size)
        if num_groups < count:
            raise ValueError(
                f"part {options.part}: the data set has {num_groups} groups of {group_size} images; make fewer"
            )
        first, last = ((number - offset) * num_groups // count * group_size for offset in (1, 0))
        chosen = chosen[first:last]
    return Job(source=source, positions=chosen, first=first, num_planned=num_planned, part=part, identity=identity)


class Encoded(NamedTuple):
    """What became of a sample."""

    line: RecordLine | SkippedLine
    data: bytes
    """What to store; nothing where it was skipped."""


class ConversionError(ValueError):
    """A sample cannot be converted; the message names it."""


def encode_all(
    samples: Iterator[ImageSample], encoder: ImageEncoder, *, num_workers: int, on_error: Literal["stop", "skip"]
) -> Generator[Encoded, None, None]:
    """Load and encode samples on a pool of threads; they come out in their own order. Few are in memory at a time.

    Raises:
        ConversionError: A sample cannot be converted, with `on_error` "stop".
    """

    def encode_some(some: Sequence[ImageSample]) -> list[Encoded]:
        data = [_load(sample) for sample in some]
        images = iter(
            encoder.encode_all(
                [(one, sample.name) for one, sample in zip(data, some, strict=True) if not isinstance(one, Exception)]
            )
        )
        results = [one if isinstance(one, Exception) else next(images) for one in data]
        return [_encoded(sample, result, on_error) for sample, result in zip(some, results, strict=True)]

    pool = ThreadPoolExecutor(num_workers)
    tasks: deque[Future[list[Encoded]]] = deque()
    try:
        while some := [sample for _, sample in zip(range(_SAMPLES_PER_TASK), samples, strict=False)]:
            tasks.append(pool.submit(encode_some, some))
            if len(tasks) > _TASKS_PER_WORKER * num_workers:
                yield from tasks.popleft().result()
        while tasks:
            yield from tasks.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _load(sample: ImageSample) -> bytes | NDArray[np.uint8] | ValueError | OSError:
    try:
        return sample.load()
    except (ValueError, OSError) as error:
        return error


def _encoded(sample: ImageSample, image: StoredImage | Exception, on_error: Literal["stop", "skip"]) -> Encoded:
    if isinstance(image, Exception):
        reason = (str(image) or type(image).__name__).splitlines()[0]
        if on_error == "stop":
            raise ConversionError(
                f"{sample} cannot be converted: {reason}; mend or remove it, or leave such images out with "
                "--on-error skip"
            ) from image
        return Encoded(SkippedLine(sample.label, reason, sample.name), b"")
    data = image.data if isinstance(image.data, bytes) else image.data.tobytes()
    line = RecordLine(
        zlib.crc32(data),
        len(data),
        image.format,
        image.height,
        image.width,
        sample.label,
        image.treatment,
        sample.name,
    )
    return Encoded(line, data)


class Outcome:
    """What came of the samples so far, for the card."""

    def __init__(self) -> None:
        self.num_samples = 0
        """Skipped ones included."""
        self.num_images = 0
        self.formats: Counter[str] = Counter()
        self.treatments: Counter[str] = Counter()
        self.skipped: list[dict[str, str]] = []

    def add(self, line: RecordLine | SkippedLine) -> None:
        """Count one more sample."""
        self.num_samples += 1
        if isinstance(line, SkippedLine):
            self.skipped.append({"name": line.name, "reason": line.reason})
            return
        self.num_images += 1
        self.formats[line.format] += 1
        self.treatments[line.treatment] += 1


def describe(
    options: ConversionOptions, job: Job, outcome: Outcome, *, num_bytes: int, seconds: float, num_resumed: int
) -> Card:
    """The card of what was converted.

    Args:
        options: What was asked for.
        job: What was to be converted.
        outcome: What came of it.
        num_bytes: The size of all files.
        seconds: How long this run took.
        num_resumed: How many samples had been converted before it.
    """
    return Card(
        dataset=options.dataset,
        source=str(options.source),
        split=job.identity["split"],
        num_images=outcome.num_images,
        num_classes=len(job.source.class_names),
        class_names=tuple(job.source.class_names),
        num_bytes=num_bytes,
        formats=dict(sorted(outcome.formats.items())),
        treatments=dict(sorted(outcome.treatments.items())),
        skipped=outcome.skipped,
        seconds=round(seconds, 3),
        images_per_second=round((outcome.num_samples - num_resumed) / seconds, 1),
        num_planned=job.num_planned,
        part=options.part,
        job=job.identity,
    )


def run_command_line(
    convert: Callable[[], tuple[Path, Card]], *, interrupted: str = "go on with the same options and --resume"
) -> int:
    """Run a converter, report on it, and return the exit code."""
    try:
        path, card = convert()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
    print(f"{path}\n{card}")
    return 0


def part_path(path: Path, part: tuple[int, int] | None) -> Path:
    """The name of a part of the file `path`: train.beton becomes train.part-2-of-8.beton."""
    return path.with_name(f"{path.stem}.part-{part[0]}-of-{part[1]}{path.suffix}") if part else path


def _parse_part(text: str) -> tuple[int, int]:
    found = _PART.fullmatch(text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"part must be NUMBER/COUNT with a number from 1 to the count, such as 2/8, got {text!r}")
    return number, count


def _sha256(source: ImageSource, positions: NDArray[np.int64]) -> str:
    """The SHA-256 of the labels and names of these images, in hexadecimal."""
    digest = hashlib.sha256()
    for position in positions.tolist():
        sample = source[position]
        digest.update(manifest_line(sample.label, sample.name))
    return digest.hexdigest()
