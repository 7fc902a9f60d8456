"""Image files in one folder for each class, and what lies among them without being an image."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from loaders.errors import FastvitError
from loaders.image_files import IMAGE_EXTENSIONS
from loaders.packed_names import PackedNames

__all__ = ["ClassFolders", "class_folders", "describe_left_out", "folder_order", "images_below"]

# What Windows, macOS's zip files, Synology, ext4 and Python leave in folders, besides what is hidden.
_LEFT_BY_SYSTEMS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "@eadir", "lost+found", "__pycache__"),
}
_SPLIT = re.compile(
    r"(train(ing|val)?|val(id|idation)?|test(ing)?|dev|eval(uation)?|holdout)([-_ .]?(set|data|images|split|[0-9]))*",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"[^.](\.tar)?(\.[^.]+)$")
_NO_EXTENSION = "without an extension"
_MAX_KINDS = 6


class ClassFolders:
    """The images of a folder with a sub-folder for each class, numbered as torchvision's ``ImageFolder`` does.

    Classes are the sub-folders' names in sorted order. A class's images may lie in folders below its own; extensions
    count in upper and lower case. What is hidden (its name begins with a dot) or left there by a system, such as
    `Thumbs.db` and `__MACOSX`, is passed over, as files next to the class folders are.

    Attributes:
        class_names: The classes' names, by label.
        names: The images' paths below the folder, class by class.
        labels: The images' labels, int64 [n].
        left_out: How many other files there are by their extension, and how many images that lie in no class folder.

    Raises:
        FastvitError: There is no such folder, it has no class folders, a class has no images, the classes are the
            splits of a data set, or links lead round in a circle.
        OSError: A folder cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.image_folder import ClassFolders
        >>> folder = ClassFolders(Path("photos"))
        >>> folder.class_names, folder.names[9], folder.labels
        (('cat', 'dog'), 'dog/9.jpg', array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]))
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FastvitError(f"{folder}: no such folder; {_layout(folder)}")
        self.class_names = class_folders(folder)
        if not self.class_names:
            raise FastvitError(
                f"{folder} is not an ImageFolder: no class folders in it; {_layout(folder)}{_also(_loose(folder))}"
            )
        self.names = PackedNames()
        left_out = Counter(
            {f"{kind} in no class": count for kind, count in _loose(folder).items() if kind in IMAGE_EXTENSIONS}
        )
        sizes = []
        for name in self.class_names:
            images = images_below(folder / name, left_out)
            self.names.extend([f"{name}/{image}" for image in images])
            sizes.append(len(images))
        self._check_classes(folder, sizes, left_out)
        self.labels = np.repeat(np.arange(len(sizes)), sizes)
        self.left_out: Mapping[str, int] = dict(left_out)

    def _check_classes(self, folder: Path, sizes: list[int], left_out: Mapping[str, int]) -> None:
        """See that each class has images, and is no split of a data set."""
        full = [name for name, size in zip(self.class_names, sizes, strict=True) if size]
        if full and all(map(_SPLIT.fullmatch, full)):
            raise FastvitError(
                f"{folder} is not an ImageFolder: its folders {', '.join(full)} are parts of a data set, not classes; "
                f"name one of them, such as {folder / full[0]}"
            )
        empty = [name for name, size in zip(self.class_names, sizes, strict=True) if not size]
        if empty:
            raise FastvitError(
                f"{folder} is not an ImageFolder: no images in {len(empty)} of {len(sizes)} class folders, the first "
                f"{empty[0]!r}; {_layout(folder)}; remove folders that are not classes{_also(left_out)}"
            )


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the classes of a folder with a sub-folder for each, by label.

    Raises:
        OSError: It cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.image_folder import class_folders
        >>> class_folders(Path("photos"))
        ('cat', 'dog')
    """
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not _is_passed_over(entry.name)))


def images_below(folder: Path, left_out: Counter[str]) -> list[str]:
    """Every image at or below a folder, its path there, in the order in which torchvision's ``ImageFolder`` has them.

    Args:
        folder: Where to look.
        left_out: Counts the other files there by their extension; what is hidden or left by a system does not count.

    Raises:
        FastvitError: Links lead round in a circle.
        OSError: A folder cannot be read.

    Examples:
        >>> from collections import Counter
        >>> from pathlib import Path
        >>> from loaders.image_folder import images_below
        >>> images_below(Path("photos/dog"), Counter())
        ['5.jpg', '6.jpg', '7.jpg', '8.jpg', '9.jpg']
    """
    found: list[tuple[str, list[str]]] = []
    pending = [("", frozenset[tuple[int, int]]())]
    while pending:
        inner, outer = pending.pop()
        path = os.path.join(folder, inner)
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in outer:
            raise FastvitError(f"{path}: this link leads to a folder around it, and so round in a circle; remove it")
        images = []
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if entry.is_dir():
                    if not _is_passed_over(name):
                        pending.append((f"{inner}/{name}" if inner else name, outer | {identity}))
                elif name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith("."):
                    images.append(name)
                elif not _is_passed_over(name):
                    left_out[_kind(name)] += 1
        found.append((inner, sorted(images)))
    found.sort()
    return [f"{inner}/{name}" if inner else name for inner, names in found for name in names]


def folder_order(name: str) -> tuple[str, str]:
    """The key by which torchvision's ``ImageFolder`` sorts the images of one class: folder by folder.

    Examples:
        >>> from loaders.image_folder import folder_order
        >>> sorted(["inner/1.jpg", "2.jpg", "10.jpg"], key=folder_order)
        ['10.jpg', '2.jpg', 'inner/1.jpg']
    """
    folder, _, file = name.rpartition("/")
    return folder, file


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """What was left out, in words: how many files of which kinds, the most frequent ones first.

    Examples:
        >>> from loaders.image_folder import describe_left_out
        >>> describe_left_out({".txt": 1, ".avif": 2})
        '3 files: 2 .avif, 1 .txt'
    """
    total = sum(left_out.values())
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{count:,} {kind}" for kind, count in kinds[:_MAX_KINDS]]
    if rest := sum(count for _, count in kinds[_MAX_KINDS:]):
        shown.append(f"{rest:,} others")
    return f"{total:,} file{'' if total == 1 else 's'}: {', '.join(shown)}"


def _loose(folder: Path) -> Counter[str]:
    """The files next to the class folders, by kind."""
    with os.scandir(folder) as entries:
        return Counter(_kind(entry.name) for entry in entries if not entry.is_dir() and not _is_passed_over(entry.name))


def _also(others: Mapping[str, int]) -> str:
    return f"; it also holds {describe_left_out(others)}" if others else ""


def _kind(name: str) -> str:
    """What a file is by its name: its extension in lower case, `.tar.gz` and the like as a whole."""
    found = _EXTENSION.search(name.lower())
    kind = (found[1] or "") + found[2] if found else _NO_EXTENSION
    return kind if kind.isprintable() else ascii(kind)[1:-1]


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def _layout(folder: Path) -> str:
    return f"expected {folder}/CLASS/IMAGE with images that end in {', '.join(IMAGE_EXTENSIONS)}"
