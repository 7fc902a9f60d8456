"""Every kind of data set by name: what opens it, and which splits it has."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from loaders.errors import FastvitError
from loaders.tar_shard import TarShard
from loaders.tfrecord_shard import TFRecordShard
from tools.sources.cifar10 import Cifar10
from tools.sources.converted import BetonSource, ShardSource
from tools.sources.folder import ImageFolder
from tools.sources.imagenet import open_train, open_val
from tools.sources.sample import ImageSource

__all__ = ["SOURCES", "Dataset", "default_split", "named_columns", "open_source"]

Dataset = Literal["cifar10", "folder", "imagenet", "tar", "tfrecord", "parquet", "beton"]


def _open_parquet(path: Path, **columns: str) -> ImageSource:
    # Imported on use: without pyarrow, all other sources must still work.
    from tools.sources.parquet import ParquetShards

    return ParquetShards(path, **columns)


SOURCES: Mapping[Dataset, Mapping[str | None, Callable[..., ImageSource]]] = {
    "cifar10": {"train": partial(Cifar10, split="train"), "test": partial(Cifar10, split="test")},
    "folder": {None: ImageFolder},
    "imagenet": {"train": open_train, "val": open_val},
    "tar": {None: partial(ShardSource, kind=TarShard)},
    "tfrecord": {None: partial(ShardSource, kind=TFRecordShard)},
    "parquet": {None: _open_parquet},
    "beton": {None: BetonSource},
}
"""What opens each split of each data set, the default split first; a path of a data set with None is one split."""


def open_source(dataset: Dataset, path: Path, split: str | None, **columns: str) -> ImageSource:
    """Open a data set as a sequence of samples.

    Those of `folder` and `imagenet` come sorted by class, then by name; the others as they are stored.

    Args:
        dataset: Its kind.
        path: Where it is; for `tar`, `tfrecord` and `parquet` also a pattern of files.
        split: The part of `cifar10` or `imagenet`, by default the training images; None for the others.
        columns: What `named_columns` made: for `parquet`, the columns that are not to be found by their usual names.

    Raises:
        FastvitError: There is no such kind, split or column, or the data set is missing, damaged or something else.
        OSError: It cannot be read.
        ImportError: A library that it needs is not installed; the message has the command that installs it.
    """
    if dataset not in SOURCES:
        raise FastvitError(f"unknown dataset {dataset!r}; choose one of: {', '.join(SOURCES)}")
    splits = SOURCES[dataset]
    chosen = default_split(dataset) if split is None else split
    if chosen not in splits:
        known = [name for name in splits if name is not None]
        remedy = f"choose one of: {', '.join(known)}" if known else "let its path name the files of the split"
        raise FastvitError(f"dataset {dataset} has no split {split!r}; {remedy}")
    if columns and dataset != "parquet":
        raise FastvitError(
            f"dataset {dataset} has no columns; leave --image-column and --label-column, which are for parquet, out"
        )
    return splits[chosen](path, **columns)


def named_columns(*, image: str | None, label: str | None) -> dict[str, str]:
    """The columns that the user named, as `open_source` takes them."""
    columns = {"image_column": image, "label_column": label}
    return {name: column for name, column in columns.items() if column is not None}


def default_split(dataset: Dataset) -> str | None:
    """The split that `open_source` opens when none is named; None where a path is one split."""
    return next(iter(SOURCES[dataset]))
