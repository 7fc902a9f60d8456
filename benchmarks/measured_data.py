"""Copies of the data that loaders are measured on, for contenders that cannot read it and for longer epochs."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Form
from benchmarks.harness import say
from benchmarks.peers.epochs import LabelledFile
from loaders.beton import Beton, BetonWriter, EncodedImage, FieldKind, ImageMode
from loaders.errors import FastvitError
from loaders.image_folder import ClassFolders
from loaders.shards import find_shards
from loaders.tar_shard import TarShard
from loaders.tfrecord_shard import TFRecordShard
from tools.convert.encode_image import read_jpeg_header
from tools.sources.converted import BetonSource, ShardSource
from tools.sources.folder import ImageFolder
from tools.sources.sample import ImageSource

__all__ = ["as_form", "holds_raw_images", "repeated"]

_FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
_JPEG_START = b"\xff\xd8"


def as_form(form: Form, path: Path, folder: Path, *, reader: str) -> Path:
    """The data in the form that a contender reads: `path` where it is that, or else the same image files in `folder`.

    Args:
        form: Which form.
        path: What `open_records` takes.
        folder: Where to write; it is made if need be.
        reader: The contender, for messages.

    Raises:
        FastvitError: The data is damaged, or has to be written in another form and cannot be: raw images, and for a
            `.beton` file whatever is no JPEG.
        ImportError: The form is a peer's own, and that is not installed.
        OSError: The disk is full.
    """
    if form == "any" or _has_form(form, path):
        return path
    source = _open(path)
    say(f"writing the images of {path} for {reader}")
    folder.mkdir(parents=True, exist_ok=True)
    write = _WRITERS.get(form) or import_module(CONTENDERS[reader].module).write
    written: Path = write(folder, _files(source, path, reader), len(source))
    return written


def _has_form(form: Form, path: Path) -> bool:
    shards = bool(find_shards(path))
    if form == "files":
        return path.is_dir() or shards
    if form == "folder":
        return path.is_dir() and not shards
    return form == "beton" and not path.is_dir() and not shards


def holds_raw_images(path: Path) -> bool:
    """Whether some images are stored as pixels, which most peers cannot read.

    Raises:
        FastvitError: The data is damaged.
    """
    return _has_form("beton", path) and bool((Beton(path).modes == ImageMode.RAW).any())


def _open(path: Path) -> ImageSource:
    if shards := find_shards(path):
        return ShardSource(path, kind=TarShard if shards[0].suffix == ".tar" else TFRecordShard)
    return ImageFolder(path) if path.is_dir() else BetonSource(path)


def _files(source: ImageSource, path: Path, reader: str) -> Iterator[LabelledFile]:
    for index in range(len(source)):
        sample = source[index]
        data = sample.load()
        if not isinstance(data, bytes):
            raise FastvitError(f"{reader} decodes JPEGs, but {path} holds raw images: leave it out of --loaders")
        yield LabelledFile(data, sample.label)


def _write_beton(folder: Path, files: Iterable[LabelledFile], num_images: int) -> Path:
    path = folder / "images.beton"
    with BetonWriter(path, _FIELDS, num_samples=num_images) as writer:
        for index, (data, label) in enumerate(files):
            if not data.startswith(_JPEG_START):
                raise FastvitError(
                    f"image {index} is no JPEG, and a .beton file holds nothing else: leave those that need one (ffcv, "
                    "limit) out of --loaders, or convert the images with fastvit-data write-ffcv"
                )
            height, width, _ = read_jpeg_header(data)
            writer.append([EncodedImage(data, ImageMode.JPG, height=height, width=width), label])
    return path


def _write_folder(folder: Path, files: Iterable[LabelledFile], _num_images: int) -> Path:
    for index, (data, label) in enumerate(files):
        file = folder / f"{label:06d}" / f"{index:09d}.jpg"  # readers go by the content, whatever it is
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    return folder


# What writes a form: one of these, or `write` of the module of the peer whose own it is.
_WRITERS: dict[Form, Callable[[Path, Iterable[LabelledFile], int], Path]] = {
    "beton": _write_beton,
    "files": _write_folder,
    "folder": _write_folder,
}


def repeated(path: Path, folder: Path, *, times: int) -> Path:
    """Data of the same kind in `folder` that has every image of `path` so many times; of files and shards, as links.

    Raises:
        FastvitError: What is there is damaged.
        OSError: The disk is full.
    """
    say(f"repeating {path} {times} times")
    if shards := find_shards(path):
        for number, shard in enumerate(shards):
            suffix = ".tar" if shard.suffix == ".tar" else ".tfrecord"  # TFRecord shards may be called without one
            _link(shard, folder / f"{number:06d}{suffix}", times=times)
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
