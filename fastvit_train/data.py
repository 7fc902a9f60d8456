"""The run's two loaders."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastvit_train.config import Config, DataConfig
from fastvit_train.distributed import World
from fastvit_train.label_map import Relabelled, classes_in_model, read_class_names, same_text
from loaders import ImageLoader, LoaderConfig, build_loader
from loaders.companions import class_names
from loaders.crop import Crop
from loaders.errors import FastvitError
from loaders.image_folder import describe_left_out
from loaders.records import FolderRecords, open_records

__all__ = [
    "DataSet",
    "Matched",
    "SetDescriptions",
    "are_numbers",
    "build_loaders",
    "check_decoder",
    "describe_sets",
    "loader_configs",
    "match_classes",
    "open_set",
    "share_of_batch",
    "training_classes",
    "validation_crop",
    "with_backend",
]

_MANY_CLASSES = 1 << 16
"""More classes than this and than there are images come of a damaged label, and their weights may fill the memory."""


class DataSet(NamedTuple):
    """One of the run's data sets, without its images."""

    path: Path
    labels: NDArray[np.int64]
    num_classes: int
    """One more than the highest label."""
    names: tuple[str, ...] | None
    """Of its classes, by label, where it has names for them."""
    left_out: Mapping[str, int]
    """How many files of its folder are no images, by their extension."""


class Matched(NamedTuple):
    """What the labels of the validation set mean to the model."""

    classes: dict[int, int]
    """The model's class for each label."""
    by_name: bool
    """Whether they were found by name, not by number."""


def check_decoder(data: DataConfig, device: torch.device) -> None:
    """Refuse a loader that decodes on a GPU where the run has none.

    Raises:
        FastvitError: It has none.
    """
    if data.needs_gpu and device.type != "cuda":
        option, other = ("backend", "native") if data.backend == "nvjpeg" else ("decode", "cpu")
        raise FastvitError(
            f"data.{option} is {getattr(data, option)}, which decodes on a GPU, but the device is {device.type}; use "
            f"--data.{option} {other}, which decodes on the CPU"
        )


def with_backend(data: DataConfig, backend: str) -> DataConfig:
    """The same images from another backend, whatever options of how it works the one before it had."""
    default = DataConfig()
    return replace(
        data,
        backend=backend,
        decode=default.decode,
        prefetch_batches=default.prefetch_batches,
        scaled_decode=default.scaled_decode,
    )


def build_loaders(config: Config, world: World) -> tuple[ImageLoader, ImageLoader, int]:
    """The training loader, the validation loader and the number of classes.

    The labels that the validation loader gives are those of the training set, whatever they are in its own data set.

    Raises:
        FastvitError: A dataset is missing, damaged or too small, or the two don't have the same classes.
    """
    data = config.data
    train, val = open_set(data.train), open_set(data.val)
    names = _training_names(train.path, train.names, train.num_classes, data.classes)
    classes, _ = match_classes(val, names, train.num_classes, train=data.train)
    training, validation = loader_configs(config, world)
    train_loader = build_loader(data.backend, data.train, training)
    val_loader = build_loader(data.backend, data.val, validation)
    if any(label != number for label, number in classes.items()):
        val_loader = Relabelled(val_loader, classes)
    return train_loader, val_loader, train.num_classes


def match_classes(val: DataSet, names: Sequence[str] | None, num_classes: int, *, train: Path) -> Matched:
    """Find the classes of the validation set among those of the training set: by name where both have names.

    Where one of them has numbers for names, as converters give them to classes without, these need not be in the other.

    Args:
        val: The validation set.
        names: The names of the training set's classes by label, where it has some.
        num_classes: How many classes those are.
        train: The training set, for messages.

    Raises:
        FastvitError: The validation set has a class that the training set lacks.
    """
    lacking = [] if names is None or val.names is None else _lacking(val, names)
    by_name = names is not None and val.names is not None and not lacking
    if lacking and not (are_numbers(names) or are_numbers(val.names)):
        shown = ", ".join(map(repr, lacking[:5])) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise FastvitError(
            f"{val.path} has images of {shown}, which {'is no class' if len(lacking) == 1 else 'are no classes'} of "
            f"{train}; give the classes the names that they have there, take these images away, or train on them"
        )
    if not by_name and val.num_classes > num_classes:
        raise FastvitError(f"{val.path} has {val.num_classes} classes, but {train} has {num_classes}; are they a pair?")
    if not by_name and val.names is not None and not are_numbers(val.names) and len(val.names) != num_classes:
        raise FastvitError(
            f"{val.path} has names for {len(val.names)} classes, but {train} has {num_classes} classes without names; "
            "name those with --data.classes"
        )
    classes = classes_in_model(
        val.labels,
        val.names if by_name else None,
        model_names=names,
        num_model_classes=num_classes,
        label_map={},
        where=val.path,
        remedy=f"give each class of {train} a name of its own",
    )
    return Matched(classes, by_name)


def loader_configs(config: Config, world: World) -> tuple[LoaderConfig, LoaderConfig]:
    """What this rank loads for training, and for validation or any other use of the trained model."""
    data = config.data
    training = LoaderConfig(
        batch_size=share_of_batch(config, world.world_size),
        resolution=data.resolution,
        crop=data.crop,
        area=data.area,
        ratio=data.ratio,
        center_fraction=data.center_fraction,
        max_shift=data.max_shift,
        interpolation=data.interpolation,
        exif_orientation=data.exif_orientation,
        repeats=data.repeats,
        order=data.order,
        drop_last=True,
        seed=config.seed,
        rank=world.rank,
        world_size=world.world_size,
        num_workers=data.num_workers,
        device=world.device,
        on_error=data.on_error,
        prefetch_batches=data.prefetch_batches,
        decode=data.decode,
        scaled_decode=data.scaled_decode,
    )
    validation = replace(
        training,
        crop=validation_crop(data.crop),
        order="sequential",
        drop_last=False,
        repeats=1,
        scaled_decode=False,
    )
    return training, validation


def validation_crop(crop: Crop) -> Crop:
    """How a model that is trained with `crop` sees images later."""
    return "whole" if crop in ("whole", "shift") else "center"


class SetDescriptions(NamedTuple):
    """The run's two data sets in words."""

    identity: dict[str, str]
    """What tells them from others, wherever they lie: of the training set as `train`, of the other as `val`."""
    notes: list[str]
    """What may not be as the user means it, to be said once."""


def describe_sets(config: Config) -> SetDescriptions:
    """Sizes, classes and a checksum of the labels of the run's data sets, and what is to be said of them."""
    train, val = open_set(config.data.train), open_set(config.data.val)
    identity = {}
    for name, (_, labels, num_classes, *_) in (("train", train), ("val", val)):
        checksum = zlib.crc32(labels.tobytes())
        identity[name] = f"{len(labels)} images of {num_classes} classes with label checksum {checksum:08x}"
    return SetDescriptions(identity, list(_notes(train, val, config.data.classes)))


def _notes(train: DataSet, val: DataSet, classes_file: Path | None) -> Iterator[str]:
    names = _training_names(train.path, train.names, train.num_classes, classes_file)
    classes, by_name = match_classes(val, names, train.num_classes, train=train.path)
    for found in (train, val):
        if found.left_out:
            yield f"{found.path}: left out {describe_left_out(found.left_out)}"
    if train.num_classes == 1:
        yield f"{train.path} has one class alone: there is nothing to tell apart"
    is_unnamed = names is None or are_numbers(names)
    known = tuple(map(str, range(train.num_classes))) if names is None else names
    for path, labels in ((train.path, train.labels), (val.path, np.array(list(classes.values())))):
        missing = np.setdiff1d(np.arange(train.num_classes), labels).tolist()
        if missing:
            shown = ", ".join(repr(known[number]) for number in missing[:5]) + (", …" if len(missing) > 5 else "")
            from_one = is_unnamed and missing == [0] and path == train.path
            question = "; do its labels begin at 1? They count from 0" if from_one else ""
            yield f"{path} has no image of {len(missing)} of the {train.num_classes} classes: {shown}{question}"
    if any(label != number for label, number in classes.items()):
        yield f"{val.path}: its classes have other numbers than those of {train.path}, and are found by name"
    if not by_name and classes_file is None and (names or val.names):
        yield (
            f"{train.path if is_unnamed else val.path} has no names for its classes, so that those of {val.path} are "
            "found by number; --data.classes names those of the training set"
        )


def share_of_batch(config: Config, world_size: int) -> int:
    """The images of each step that one of `world_size` ranks takes.

    Raises:
        FastvitError: The batch cannot be divided equally.
    """
    parts = 1 if config.accumulate is None else config.accumulate
    if config.batch_size % (world_size * parts):
        raise FastvitError(
            f"batch_size {config.batch_size} is over all devices and must be a multiple of {world_size} devices "
            f"x accumulate {parts}; change one of them"
        )
    return config.batch_size // world_size


def training_classes(path: Path, num_classes: int, *, classes_file: Path | None = None) -> tuple[str, ...] | None:
    """The names of the classes that a model learns from a dataset, by label; None where there are none.

    Args:
        path: The dataset.
        num_classes: How many there are.
        classes_file: Names for a dataset without: `data.classes`.

    Raises:
        FastvitError: Its card is damaged, or names fewer classes than it has; or the file does not fit it.
    """
    return _training_names(path, _own_names(path, num_classes), num_classes, classes_file)


def open_set(path: Path) -> DataSet:
    """Read the labels and the names of the classes of a data set.

    Raises:
        FastvitError: It is missing or damaged, or has labels that cannot be right.
    """
    records = open_records(path)
    labels = records.labels
    if labels.min() < 0:
        raise FastvitError(
            f"{path}: record {labels.argmin()} has label {labels.min()}; labels count from 0: write the file again"
        )
    num_classes = int(labels.max()) + 1
    names = _own_names(path, num_classes)
    if names is None and num_classes > max(_MANY_CLASSES, len(labels)):
        raise FastvitError(
            f"{path}: record {labels.argmax()} has label {labels.max()}, which makes {num_classes:,} classes of "
            f"{len(labels):,} images; labels count from 0: write the file again, or a card that names the classes"
        )
    left_out = records.left_out if isinstance(records, FolderRecords) else {}
    return DataSet(path, labels, num_classes, names, left_out)


def _own_names(path: Path, num_classes: int) -> tuple[str, ...] | None:
    """The names that a dataset itself has for its classes, which may be more than have images."""
    names = class_names(path)
    if names is not None and len(names) < num_classes:
        raise FastvitError(
            f"{path} has labels up to {num_classes - 1}, but its card names {len(names)} classes; write both again, "
            "or move the card away"
        )
    return names


def _training_names(
    path: Path, own: tuple[str, ...] | None, num_classes: int, classes_file: Path | None
) -> tuple[str, ...] | None:
    own = None if own is None else own[:num_classes]
    if classes_file is None:
        return own
    given = read_class_names(classes_file)
    if len(given) != num_classes:
        raise FastvitError(
            f"--data.classes {classes_file} has {len(given)} names, but the labels of {path} go from 0 to "
            f"{num_classes - 1}; give {num_classes} names, that of label 0 first"
        )
    if own is not None and own != given and not are_numbers(own):
        raise FastvitError(
            f"--data.classes {classes_file} differs from the names that {path} has for its classes, such as "
            f"{own[0]!r}; leave it out"
        )
    return given


def _lacking(val: DataSet, names: Sequence[str]) -> list[str]:
    """The classes with images that are none of these by name."""
    known = set(map(same_text, names))
    own = val.names or ()
    return [own[label] for label in np.unique(val.labels).tolist() if same_text(own[label]) not in known]


def are_numbers(names: Sequence[str] | None) -> bool:
    """Whether these are the names that converters give to classes that have none of their own."""
    return names is not None and list(names) == list(map(str, range(len(names))))
