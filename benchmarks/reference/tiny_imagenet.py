"""Tiny-ImageNet as class folders of JPEGs in the parts train and val, unpacked or in a tar archive.

Nothing of an archive is trusted: only regular files that are images of a class are unpacked, to paths that are checked.
"""

import gzip
import lzma
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from loaders.atomic_file import clear_os_errors, make_folder
from loaders.errors import FastvitError
from loaders.image_files import IMAGE_EXTENSIONS
from loaders.image_folder import ClassFolders
from tools.sources.names import checked_name

__all__ = ["PARTS", "Listing", "read_listing", "unpacked"]

PARTS = ("train", "val")

_IMAGE = re.compile(r"(?P<root>(?:.*?/)?)(?P<part>train|val)/(?P<class>[^/]+)/.+")
_LAYOUT = "expected train/CLASS/IMAGE and val/CLASS/IMAGE in it, or in its only folder"
_DAMAGES = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Listing(NamedTuple):
    """What is in it."""

    class_names: tuple[str, ...]
    num_train_images: int
    num_val_images: int


class _Member(NamedTuple):
    """An image in an archive."""

    header: tarfile.TarInfo
    root: str
    part: str
    class_name: str
    path: str
    """Below the folder that has the parts."""


def read_listing(path: Path) -> Listing:
    """Look at the names of all images in a tar archive, or in a folder that was unpacked from one.

    Raises:
        FastvitError: It is missing, damaged or something else, or train and val have different classes.
        OSError: It cannot be read.
    """
    if path.is_dir():
        root = _root_of_folder(path)
        train, val = (ClassFolders(root / part) for part in PARTS)
        _check_classes(path, train.class_names, val.class_names)
        return Listing(train.class_names, len(train.labels), len(val.labels))
    with _open_archive(path) as archive:
        members = _members(archive, path)
    classes = {part: sorted({member.class_name for member in members if member.part == part}) for part in PARTS}
    _check_classes(path, *classes.values())
    num_train = sum(member.part == "train" for member in members)
    return Listing(tuple(classes["train"]), num_train, len(members) - num_train)


@contextmanager
def unpacked(path: Path, folder: Path) -> Iterator[Path]:
    """The folder that has the parts: where `path` is a tar archive, its images are in `folder` as long as this is open.

    What an interrupted process left in `folder` goes first.

    Raises:
        FastvitError: See `read_listing`; or the images cannot be written.
        OSError: It cannot be read.
    """
    if path.is_dir():
        yield _root_of_folder(path)
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with _open_archive(path) as archive:
            for member in _members(archive, path):
                _unpack(archive, member.header, folder / member.path)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _root_of_folder(path: Path) -> Path:
    candidates = [path, *sorted(inner for inner in path.iterdir() if inner.is_dir())]
    roots = [root for root in candidates if all((root / part).is_dir() for part in PARTS)]
    if path in roots:
        return path
    if len(roots) != 1:
        raise FastvitError(f"{path}: {'no' if not roots else 'more than one'} folder with train and val; {_LAYOUT}")
    return roots[0]


@contextmanager
def _open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        raise FastvitError(f"{path}: no such file; name a tar archive of Tiny-ImageNet, or the folder that was in it")
    try:
        with tarfile.open(path) as archive:
            yield archive
    except _DAMAGES as error:
        raise FastvitError(
            f"{path}: not a tar archive, damaged or cut short ({error}); copy it again, or name an unpacked folder"
        ) from error


def _members(archive: tarfile.TarFile, path: Path) -> list[_Member]:
    """The images of all classes; of several with one name the last, as tar has it."""
    members = {}
    for header in archive:
        found = _image_of(header, path)
        if found:
            members[found.path] = found
    _check_is_whole(archive)
    roots = {member.root for member in members.values()}
    if len(roots) != 1:
        where = f"several folders, {' and '.join(sorted(roots)[:2])}," if roots else "no folders"
        raise FastvitError(f"{path}: {where} with images in train and val; {_LAYOUT}")
    return list(members.values())


def _check_is_whole(archive: tarfile.TarFile) -> None:
    """See that its end mark is behind the last member: `tarfile` takes a damaged header, and no header, for the end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header and no end mark at byte {archive.offset}")


def _image_of(header: tarfile.TarInfo, path: Path) -> _Member | None:
    """A member as an image of a class; None where it is none.

    Raises:
        FastvitError: Its name leads out of the archive, or it is a link or the like in an image's place.
    """
    try:
        name = checked_name(header.name)
    except FastvitError as error:
        raise FastvitError(f"{path}: {error}") from error
    found = _IMAGE.fullmatch(name)
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    if found is None or is_hidden or header.isdir() or not name.lower().endswith(IMAGE_EXTENSIONS):
        return None
    if not header.isreg() or header.issparse():
        raise FastvitError(
            f"{path}: its member {header.name!r} is a link or a special file, not an image; write the archive again "
            "with the files themselves (tar --dereference --hard-dereference)"
        )
    return _Member(header, found["root"], found["part"], found["class"], name.removeprefix(found["root"]))


def _unpack(archive: tarfile.TarFile, header: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(header)
    assert content is not None  # it is a regular file
    with content, clear_os_errors(path):
        make_folder(path.parent)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)


def _check_classes(path: Path, train: Sequence[str], val: Sequence[str]) -> None:
    if not (train and val):
        raise FastvitError(f"{path}: no images in {'val' if train else 'train'}; {_LAYOUT}")
    differing = sorted(set(train) ^ set(val))
    if differing:
        name = differing[0]
        here, there = ("train", "val") if name in train else ("val", "train")
        raise FastvitError(
            f"{path}: train has {len(train)} classes and val {len(val)}, and {len(differing)} of them are not in both, "
            f"such as {name!r}, which is in {here} but not in {there}; give both a folder for each class"
        )
