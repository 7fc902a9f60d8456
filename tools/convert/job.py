"""Which images of a source are converted, in which order."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError
from loaders.order import epoch_order
from tools.convert.options import ConversionOptions, parse_part
from tools.listings.manifest import manifest_line, read_manifest
from tools.sources.registry import default_split, open_source
from tools.sources.sample import ImageSample, ImageSource
from tools.sources.selection import positions_of

__all__ = ["Job", "plan"]


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
        FastvitError: Source, manifest or part are not as they should be.
        OSError: The source cannot be read.
        ImportError: The source needs a library that is not installed.
    """
    source = open_source(options.dataset, options.source, options.split, **options.columns)
    if options.seed is not None and not source.random_access:
        raise FastvitError(
            f"{options.source}: {options.dataset} is only quick to read in its own order, not in that of a seed; "
            "convert it without a seed, then convert the result (--dataset beton or tar --mode keep) with --seed"
        )
    chosen = positions_of(read_manifest(options.manifest), source) if options.manifest else np.arange(len(source))
    if not len(chosen):
        raise FastvitError(f"{options.manifest or options.source}: no images to convert")
    identity = {
        "dataset": options.dataset,
        "split": options.split or default_split(options.dataset),
        "images_sha256": _sha256(source, chosen),
        "seed": options.seed,
        **options.columns,
        **settings,
    }
    if options.seed is not None:
        size = len(chosen)
        chosen = chosen[epoch_order("random", size=size, seed=options.seed, epoch=0, start=0, stop=size)]
    part = parse_part(options.part) if options.part else None
    first, num_planned = 0, len(chosen)
    if part:
        number, count = part
        num_groups = -(-num_planned // group_size)
        if num_groups < count:
            raise FastvitError(
                f"part {options.part}: the data set has {num_groups} groups of {group_size} images; make fewer"
            )
        first, last = ((number - offset) * num_groups // count * group_size for offset in (1, 0))
        chosen = chosen[first:last]
    return Job(source=source, positions=chosen, first=first, num_planned=num_planned, part=part, identity=identity)


def _sha256(source: ImageSource, positions: NDArray[np.int64]) -> str:
    """The SHA-256 of the labels and names of these images, in hexadecimal."""
    digest = hashlib.sha256()
    for position in positions.tolist():
        sample = source[position]
        digest.update(manifest_line(sample.label, sample.name))
    return digest.hexdigest()
