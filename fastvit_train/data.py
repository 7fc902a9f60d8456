"""The run's two loaders."""

import zlib
from dataclasses import replace
from pathlib import Path

from fastvit_train.config import Config
from fastvit_train.distributed import World
from loaders import ImageLoader, LoaderConfig, build_loader
from loaders.companions import class_names
from loaders.crop import Crop
from loaders.errors import FastvitError
from loaders.records import open_records

__all__ = [
    "build_loaders",
    "describe_sets",
    "loader_configs",
    "share_of_batch",
    "training_classes",
    "validation_crop",
]


def build_loaders(config: Config, world: World) -> tuple[ImageLoader, ImageLoader, int]:
    """The training loader, the validation loader and the number of classes.

    Raises:
        FastvitError: A dataset is missing, damaged or too small, or the two don't have the same classes.
    """
    data = config.data
    num_classes, num_val_classes = _count_classes(data.train), _count_classes(data.val)
    if num_val_classes > num_classes:
        raise FastvitError(
            f"{data.val} has {num_val_classes} classes, but {data.train} has {num_classes}; are they a pair?"
        )
    training, validation = loader_configs(config, world)
    train_loader = build_loader(data.backend, data.train, training)
    return train_loader, build_loader(data.backend, data.val, validation), num_classes


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


def describe_sets(config: Config) -> dict[str, str]:
    """What tells the run's two data sets from others, wherever they lie: sizes, classes and a checksum of the labels.

    Returns:
        Of the training set as `train`, and of the validation set as `val`, for people too.
    """
    described = {}
    for name, path in (("train", config.data.train), ("val", config.data.val)):
        labels = open_records(path).labels
        checksum = zlib.crc32(labels.tobytes())
        described[name] = f"{len(labels)} images of {int(labels.max()) + 1} classes with label checksum {checksum:08x}"
    return described


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


def training_classes(path: Path, num_classes: int) -> tuple[str, ...] | None:
    """The names of the classes that a model learns from a dataset, by label; None where the dataset has none.

    Raises:
        FastvitError: Its card is damaged, or names fewer classes than it has.
    """
    names = class_names(path)
    if names is None:
        return None
    if len(names) < num_classes:
        raise FastvitError(
            f"{path} has labels up to {num_classes - 1}, but its card names {len(names)} classes; write both again, "
            "or move the card away"
        )
    return names[:num_classes]


def _count_classes(path: Path) -> int:
    labels = open_records(path).labels
    if labels.min() < 0:
        raise FastvitError(
            f"{path}: record {labels.argmin()} has label {labels.min()}; labels count from 0: write the file again"
        )
    return int(labels.max()) + 1
