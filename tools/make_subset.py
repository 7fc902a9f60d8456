"""Choose a part of a data set, the same share of every class: ``python tools/make_subset.py --help``."""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from loaders.command import run_command
from loaders.errors import FastvitError
from loaders.image_folder import describe_left_out
from tools.listings.manifest import Manifest, lines_sha256, write_manifest
from tools.sources.registry import Dataset, open_source
from tools.sources.sample import ImageSource, left_out_of

__all__ = ["MakeSubset", "apportion", "choose", "main", "make_subset", "parse_fraction"]

_FRACTION = re.compile(r"[0-9]{1,18}/[0-9]{1,18}|[0-9]{0,18}\.?[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeSubset:
    """Choose images of a data set, the same share of every class, and write their names into a manifest.

    The same seed and data set give the same bytes on every machine. Which images of a class are chosen depends on the
    seed and on their names alone: of two subsets with one seed, a class's images in one contain those in the other.
    """

    dataset: Dataset
    """The kind of data set, as for fastvit-data write-ffcv."""

    source: Path
    """Where the data set lies."""

    out: Path
    """The manifest to write."""

    fraction: str | None = None
    """How much of the data set to choose, such as 2/3 or 0.25. Give this or num_images."""

    num_images: int | None = None
    """How many images to choose."""

    seed: int = 0
    """Decides which images are chosen."""

    split: str | None = None
    """The part of the data set, where it has parts."""

    complement: Path | None = None
    """A second manifest to write: all images that were not chosen."""

    overwrite: bool = False
    """Replace the manifests if they exist."""

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.num_images is None):
            raise FastvitError(f"give fraction or num_images, got {self.fraction} and {self.num_images}")
        if self.fraction is not None:
            parse_fraction(self.fraction)
        if self.num_images is not None and self.num_images < 1:
            raise FastvitError(f"num_images must be positive, got {self.num_images}")
        if not 0 <= self.seed < 2**64:
            raise FastvitError(f"seed must lie in [0, 2^64), got {self.seed}")
        if self.complement == self.out:
            raise FastvitError(f"out and complement must be two files, got {self.out} twice")

    @property
    def rule(self) -> str:
        """How the images are chosen, for the manifest."""
        if self.fraction is None:
            return f"{self.num_images} images, the same fraction of each class, largest remainders"
        return f"fraction {parse_fraction(self.fraction)} of each class, largest remainders"

    def num_chosen(self, total: int) -> int:
        """How many of `total` images to choose."""
        return self.num_images or round(total * parse_fraction(self.fraction or "0"))


def parse_fraction(text: str) -> Fraction:
    """Read a fraction above 0 and up to 1 exactly, such as ``2/3`` or ``0.25``.

    Raises:
        FastvitError: It is none.
    """
    fraction = Fraction(0)
    if _FRACTION.fullmatch(text) and not re.search("/0+$", text):
        fraction = Fraction(text)
    if not 0 < fraction <= 1:
        raise FastvitError(f"fraction must be above 0 and up to 1, such as 2/3 or 0.25, got {text!r}")
    return fraction


def apportion(class_sizes: NDArray[np.int64], num_images: int) -> NDArray[np.int64]:
    """Share `num_images` out among classes of these sizes, int64 [c], in proportion.

    Each class gets its share rounded down; those with the largest remainders, the first of equal ones, get one more
    (Hamilton's method). No class gets more than it has.

    Returns:
        How many images of each class, int64 [c]; they add up to `num_images`.
    """
    total = int(class_sizes.sum())
    shares, remainders = np.divmod(class_sizes * num_images, total)
    largest_first = np.argsort(-remainders, kind="stable")
    shares[largest_first[: num_images - int(shares.sum())]] += 1
    return shares


def choose(labels: NDArray[np.int64], names: Sequence[str], *, num_images: int, seed: int) -> NDArray[np.bool_]:
    """Choose images of every class in proportion: those whose names have the smallest hashes under `seed`.

    Args:
        labels: The images' labels, int64 [n], not negative.
        names: The images' names.
        num_images: How many to choose, at most n.
        seed: Key of the hash (BLAKE2b, 64 bits), 0 to 2^64 - 1.

    Returns:
        Which images are chosen, bool [n].
    """
    key = seed.to_bytes(8, "little")
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key) for name in names)
    # Big-endian on every machine, or the choice would depend on the machine.
    hashes = np.frombuffer(b"".join(digest.digest() for digest in digests), ">u8")
    class_sizes = np.bincount(labels)
    order = np.lexsort((hashes, labels))  # by class, then by hash; equal ones, if ever, in the source's order
    first_of_class = np.cumsum(class_sizes) - class_sizes
    ranks = np.arange(len(labels)) - first_of_class[labels[order]]
    chosen = np.empty(len(labels), np.bool_)
    chosen[order] = ranks < apportion(class_sizes, num_images)[labels[order]]
    return chosen


def make_subset(config: MakeSubset) -> str:
    """Choose the images, write the manifests, and describe the subset.

    Raises:
        FastvitError: The source is not as it should be, has too few images, or a manifest exists.
        OSError: The source cannot be read or a manifest not written.
        ImportError: The source needs a library that is not installed.
    """
    for path in filter(None, (config.out, config.complement)):
        if path.exists() and not config.overwrite:
            raise FastvitError(f"{path}: exists already; remove it, name another file, or pass --overwrite")
    source = open_source(config.dataset, config.source, config.split)
    labels, names = _labels_and_names(source)
    num_chosen = config.num_chosen(len(names))
    if not 1 <= num_chosen <= len(names):
        raise FastvitError(
            f"{config.source}: cannot choose {num_chosen} of its {len(names)} images; choose another number"
        )
    if config.complement and num_chosen == len(names):
        raise FastvitError(
            f"{config.complement}: nothing is left for it, all {num_chosen} images are chosen; leave it out"
        )
    chosen = choose(labels, names, num_images=num_chosen, seed=config.seed)
    counts = f"{len(names)} images in {len(source.class_names)} classes"
    description = f"{config.dataset}, {counts}, sha256 {lines_sha256(labels, names)}"

    def write(path: Path, which: NDArray[np.bool_], rule: str) -> Manifest:
        picked = [names[index] for index in np.flatnonzero(which).tolist()]
        manifest = Manifest(
            path=path, source=description, rule=rule, seed=config.seed, labels=labels[which], names=picked
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest)
        return manifest

    subset = write(config.out, chosen, config.rule)
    if config.complement:
        write(config.complement, ~chosen, f"all but {config.rule}")
    return _describe(subset, num_images=len(names), num_classes=len(source.class_names), left_out=left_out_of(source))


def _labels_and_names(source: ImageSource) -> tuple[NDArray[np.int64], list[str]]:
    """Every image's label, int64 [n], and name, in the source's order."""
    labels, names = np.empty(len(source), np.int64), list[str]()
    for index in range(len(source)):
        sample = source[index]
        labels[index] = sample.label
        names.append(sample.name)
    return labels, names


def _describe(subset: Manifest, *, num_images: int, num_classes: int, left_out: Mapping[str, int]) -> str:
    sizes = np.bincount(subset.labels, minlength=num_classes)
    rows = {
        "images": f"{len(subset.names):,} of {num_images:,}",
        "classes": f"{np.count_nonzero(sizes):,} of {num_classes:,}, {sizes.min():,} to {sizes.max():,} images each",
        "rule": subset.rule,
        "seed": str(subset.seed),
        "sha256": subset.sha256,
        **({"left out": describe_left_out(left_out)} if left_out else {}),
    }
    return "\n".join(f"{name:11}{value}" for name, value in rows.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""

    def work() -> None:
        config = tyro.cli(MakeSubset, args=argv)
        description = make_subset(config)
        print(f"{config.out}\n{description}")

    return run_command(work, interrupted="interrupted: no partial file is left")


if __name__ == "__main__":
    sys.exit(main())
