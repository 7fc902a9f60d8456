"""Copies of the data that loaders are measured on, for contenders that cannot read it and for longer epochs."""

from pathlib import Path

from benchmarks.peers.epochs import open_jpegs
from loaders.beton import Beton, BetonWriter, EncodedImage, FieldKind, ImageMode
from loaders.image_folder import ClassFolders
from loaders.tar_shard import find_shards

__all__ = ["as_class_folders", "repeated"]

_FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}


def as_class_folders(path: Path, folder: Path) -> Path:
    """What a loader reads that knows image files and shards: `path`, or the JPEGs of a `.beton` file, now in `folder`.

    Args:
        path: What `open_records` takes.
        folder: Gets a sub-folder for each class.

    Raises:
        FastvitError: The file is damaged or holds raw images.
        OSError: The disk is full.
    """
    if path.is_dir() or find_shards(path):
        return path
    beton = open_jpegs(path, "dali-plain")
    for index, label in enumerate(beton.labels.tolist()):
        file = folder / f"{label:06d}" / f"{index:09d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(beton.image_bytes(index).data)
    return folder


def repeated(path: Path, folder: Path, *, times: int) -> Path:
    """Data of the same kind in `folder` that has every image of `path` so many times; of files and shards, as links.

    Raises:
        FastvitError: What is there is damaged.
        OSError: The disk is full.
    """
    if shards := find_shards(path):
        for number, shard in enumerate(shards):
            _link(shard, folder / f"{number:06d}{shard.suffix}", times=times)
            if (index := shard.with_suffix(".idx")).exists():
                _link(index, folder / f"{number:06d}.idx", times=times)
        return folder
    if path.is_dir():
        for name in ClassFolders(path).names:
            _link(path / name, folder / name, times=times)
        return folder
    return _repeated_beton(path, folder / path.name, times=times)


def _link(file: Path, link: Path, *, times: int) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    for number in range(times):
        link.with_name(f"{number:06d}-{link.name}").symlink_to(file.resolve())


def _repeated_beton(path: Path, copy: Path, *, times: int) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    beton = Beton(path)
    columns = (beton.modes, beton.heights, beton.widths, beton.labels)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    with BetonWriter(copy, _FIELDS, num_samples=times * len(rows)) as writer:
        for _ in range(times):
            for index, (mode, height, width, label) in enumerate(rows):
                image = EncodedImage(beton.image_bytes(index), ImageMode(mode), height=height, width=width)
                writer.append([image, label])
    return copy
