"""The data of the reference experiments: what has to be there, and what is made of it."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from benchmarks.harness import say
from benchmarks.reference import tiny_imagenet
from fastvit_train import data
from fastvit_train.data import match_classes, open_set
from loaders.errors import FastvitError
from loaders.file_lock import file_lock
from tools.make_subset import MakeSubset, make_subset
from tools.write_ffcv import WriteFfcv, write_ffcv

__all__ = ["DATA_SETS", "DataSet", "DataSetKind", "MadeDataSet", "Sources", "describe", "prepare", "problems"]

_NUM_CIFAR10_CLASSES, _NUM_IMAGENET_CLASSES = 10, 1000
_RESOLUTION = 32
"""Of what is made, in pixels."""
_JPEG_BYTES = 4096
"""That an unpacked file of Tiny-ImageNet takes of the disk: a block."""
_OVERHEAD_BYTES = 2**24
"""Of a `.beton` file: its tables, and a last page that is not full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where the data lies that the experiments are given, and where to put what is made of it."""

    cifar10: Path
    """Folder with cifar10_train.beton and cifar10_test.beton: `--cifar10`."""
    tiny_imagenet: Path | None = None
    """A tar archive of class folders in train and val, or the folder that was in it: `--tiny-imagenet`."""
    imagenet_train: Path | None = None
    """A `.beton` file, a folder or shards: `--imagenet-train`."""
    imagenet_val: Path | None = None
    """The same for validation: `--imagenet-val`."""
    folder: Path
    """For what is made."""


class DataSet(NamedTuple):
    """Images to train on and to evaluate on, as `fastvit-train` takes them."""

    train: Path
    val: Path
    num_train_images: int
    num_val_images: int
    num_classes: int


class DataSetKind(Protocol):
    """One of `DATA_SETS`."""

    def describe(self, sources: Sources) -> DataSet:
        """The data set as it is, or will be when it is made; nothing is written.

        Raises:
            FastvitError: Something is missing or wrong; each line of the message is about one thing.
            OSError: Something cannot be read.
        """


@runtime_checkable
class MadeDataSet(DataSetKind, Protocol):
    """One that is made of another."""

    def num_bytes(self, described: DataSet) -> int:
        """About what `make` needs of the disk at a time."""

    def make(self, sources: Sources, described: DataSet) -> None:
        """Write the files; each appears whole or not at all.

        Raises:
            FastvitError: They cannot be made.
            OSError: Something cannot be read.
        """


def describe(name: str, sources: Sources) -> DataSet:
    """The data set that `prepare` returns, without making it.

    Raises:
        FastvitError: Something is missing or wrong; each line of the message is about one thing.
    """
    try:
        return DATA_SETS[name].describe(sources)
    except OSError as error:
        raise FastvitError(f"{error.filename or name}: {error.strerror or error}; see that it can be read") from error


def problems(names: Iterable[str], sources: Sources) -> list[str]:
    """All that is missing or wrong of these data sets, with the remedy; nothing is written."""
    found, num_bytes = dict[str, None](), 0  # as an ordered set: several data sets may lack the same file
    for name in dict.fromkeys(names):
        try:
            described = describe(name, sources)
        except FastvitError as error:
            found |= dict.fromkeys(str(error).splitlines())
            continue
        kind = DATA_SETS[name]
        if isinstance(kind, MadeDataSet) and not _is_there(described):
            num_bytes += kind.num_bytes(described)
    return [*found, *_problems_of_folder(sources.folder, num_bytes)]


def prepare(name: str, sources: Sources) -> DataSet:
    """Make a data set in `sources.folder`, but for what is there already.

    Raises:
        FastvitError: Something is missing or wrong, or the disk is full.
        OSError: Something cannot be read.
    """
    kind, described = DATA_SETS[name], describe(name, sources)
    if isinstance(kind, MadeDataSet) and not _is_there(described):
        say(f"making the data set {name} in {sources.folder}")
        busy = f"{sources.folder}: another process is making data sets in it; wait for it, or choose another --out"
        with file_lock(sources.folder / "data.lock", busy=busy):
            kind.make(sources, described)
    say(
        f"{name}: {described.num_train_images:,} images for training and {described.num_val_images:,} for validation, "
        f"{described.num_classes:,} classes"
    )
    return described


class _Cifar10:
    """CIFAR-10 as it was converted."""

    def describe(self, sources: Sources) -> DataSet:
        train, val = (sources.cifar10 / f"cifar10_{part}.beton" for part in ("train", "test"))
        if missing := [path.name for path in (train, val) if not path.is_file()]:
            raise FastvitError(_no_cifar10(sources.cifar10, missing))
        return _described_pair(train, val, num_classes=_NUM_CIFAR10_CLASSES)


class _Cifar10Part:
    """So many percent of the training images of each class of CIFAR-10; smaller parts are in larger ones."""

    def __init__(self, percent: int) -> None:
        self._percent = percent

    def describe(self, sources: Sources) -> DataSet:
        whole = DATA_SETS["cifar10"].describe(sources)
        num_images = self._subset(sources, whole.train).num_chosen(whole.num_train_images)
        part = whole._replace(train=self._file(sources, ".beton"), num_train_images=num_images)
        if _is_there(part):
            _check_is_of(whole.train, _described_pair(part.train, part.val), expected=part)
        return part

    def num_bytes(self, described: DataSet) -> int:
        return _raw_bytes(described.num_train_images)

    def make(self, sources: Sources, described: DataSet) -> None:
        subset = self._subset(sources, DATA_SETS["cifar10"].describe(sources).train)
        make_subset(subset)
        _write_raw(dataset="beton", source=subset.source, manifest=subset.out, out=described.train)

    def _subset(self, sources: Sources, whole: Path) -> MakeSubset:
        # One seed for all parts: that is what nests them.
        return MakeSubset(
            dataset="beton",
            source=whole,
            out=self._file(sources, ".tsv"),
            fraction=f"{self._percent}/100",
            seed=0,
            overwrite=True,
        )

    def _file(self, sources: Sources, ending: str) -> Path:
        return sources.folder / f"cifar10-{self._percent}{ending}"


class _TinyImageNet:
    """Tiny-ImageNet, or some classes of it, made smaller and stored as pixels."""

    def describe(self, sources: Sources) -> DataSet:
        train, val = (sources.folder / f"tiny-imagenet-{part}.beton" for part in tiny_imagenet.PARTS)
        made = _described_pair(train, val) if train.exists() and val.exists() else None
        if sources.tiny_imagenet is None:
            if made is None:
                raise FastvitError(
                    "--tiny-imagenet is not given; name a tar archive of Tiny-ImageNet with train/CLASS/IMAGE and "
                    "val/CLASS/IMAGE, or the folder that was in it"
                )
            return made
        found = tiny_imagenet.read_listing(sources.tiny_imagenet)
        listed = DataSet(train, val, found.num_train_images, found.num_val_images, len(found.class_names))
        if made is not None:
            _check_is_of(sources.tiny_imagenet, made, expected=listed)
        return listed

    def num_bytes(self, described: DataSet) -> int:
        unpacked = _JPEG_BYTES * (described.num_train_images + described.num_val_images)
        return unpacked + _raw_bytes(described.num_train_images) + _raw_bytes(described.num_val_images)

    def make(self, sources: Sources, described: DataSet) -> None:
        assert sources.tiny_imagenet is not None  # or else it is there
        with tiny_imagenet.unpacked(sources.tiny_imagenet, sources.folder / "tiny-imagenet.unpacked") as root:
            for part, out in zip(tiny_imagenet.PARTS, (described.train, described.val), strict=True):
                _write_raw(dataset="folder", source=root / part, out=out)


class _ImageNet:
    """ImageNet as it was converted; a part of its training images is as good, if it has all classes."""

    def describe(self, sources: Sources) -> DataSet:
        paths = {"--imagenet-train": sources.imagenet_train, "--imagenet-val": sources.imagenet_val}
        given = {option: path for option, path in paths.items() if path is not None}
        if missing := [option for option in paths if option not in given]:
            raise FastvitError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given; name ImageNet as "
                "fastvit-train takes it: a .beton file, a folder or shards, which fastvit-data makes of the archives"
            )
        return _described_pair(*given.values(), num_classes=_NUM_IMAGENET_CLASSES)


DATA_SETS: Mapping[str, DataSetKind] = {
    "cifar10": _Cifar10(),
    "cifar10-5": _Cifar10Part(5),
    "cifar10-10": _Cifar10Part(10),
    "cifar10-30": _Cifar10Part(30),
    "tiny-imagenet": _TinyImageNet(),
    "imagenet": _ImageNet(),
}
"""By name; those with a number have so many percent of the training images."""


def _described_pair(train: Path, val: Path, *, num_classes: int | None = None) -> DataSet:
    """Open two data sets, and see that they have the same classes.

    Raises:
        FastvitError: One is missing or damaged, or has other classes.
    """
    opened, faults = list[data.DataSet](), list[str]()
    for path in (train, val):
        try:
            opened.append(open_set(path))
        except FastvitError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{error.filename or path}: {error.strerror or error}; see that it can be read")
    if faults:
        raise FastvitError("\n".join(faults))
    found, of_val = opened
    num_found = len(np.unique(found.labels))
    if num_classes is not None and (num_found, found.num_classes) != (num_classes, num_classes):
        raise FastvitError(
            f"{train} has images of {num_found:,} classes, with labels up to {found.num_classes - 1:,}, expected "
            f"{num_classes:,} classes; name the training images of the whole data set"
        )
    names = None if found.names is None else found.names[: found.num_classes]
    match_classes(of_val, names, found.num_classes, train=train)
    return DataSet(train, val, len(found.labels), len(of_val.labels), found.num_classes)


def _is_there(described: DataSet) -> bool:
    return described.train.exists() and described.val.exists()


def _raw_bytes(num_images: int) -> int:
    return num_images * 3 * _RESOLUTION**2 + _OVERHEAD_BYTES


def _write_raw(*, dataset: Literal["beton", "folder"], source: Path, out: Path, manifest: Path | None = None) -> None:
    write_ffcv(
        WriteFfcv(
            dataset=dataset,
            source=source,
            manifest=manifest,
            out=out,
            mode="raw",
            max_side=_RESOLUTION,
            overwrite=True,  # of what was interrupted
        )
    )


def _check_is_of(source: Path, made: DataSet, *, expected: DataSet) -> None:
    """See that what an earlier call made is what would be made of the source now, as far as numbers tell."""
    if made != expected:
        raise FastvitError(
            f"{made.train} has {made.num_train_images:,} images of {made.num_classes:,} classes, but of {source} it "
            f"would be {expected.num_train_images:,} of {expected.num_classes:,}: it was made of other data; choose "
            "another --out, or remove it"
        )


def _no_cifar10(folder: Path, missing: list[str]) -> str:
    convert = f"fastvit-data write-ffcv --dataset cifar10 --source {folder}/cifar10"
    parts = [name.removesuffix(".beton").removeprefix("cifar10_") for name in missing]
    commands = [f"fastvit-data get-cifar10 --out {folder}/cifar10"]
    commands += [f"{convert} --split {part} --out {folder}/cifar10_{part}.beton" for part in parts]
    return (
        f"{folder}: no {' and no '.join(missing)}; name the folder that has CIFAR-10 with --cifar10, or make it: "
        f"{' && '.join(commands)} (in a checkout, `make train` does it too)"
    )


def _problems_of_folder(folder: Path, num_bytes: int) -> Iterator[str]:
    """Whether so many bytes can be written to a folder that need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield f"{existing}: no folder that can be written to; choose another --out"
    elif num_bytes and (free := shutil.disk_usage(existing).free) < num_bytes:
        yield (
            f"{folder}: {free / 1e6:,.0f} MB are free, but the data sets need about {num_bytes / 1e6:,.0f}; make room "
            "there, or choose another --out"
        )
