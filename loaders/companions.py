"""The files that the converters leave next to a dataset: its card, which names the classes, and its images' names."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from loaders.errors import FastvitError
from loaders.image_folder import class_folders
from loaders.shards import find_shards, shard_kind

__all__ = [
    "card_path",
    "checked_classes",
    "class_names",
    "classes_on_cards",
    "read_card",
    "record_list_path",
    "source_names",
]

# What tells the shards of one dataset from each other, with their extension.
_SHARD_ENDING = re.compile(r"(-?[0-9]+(-of-[0-9]+)?)?\.(tar|tfrecords?)$|(\.tfrecords?)?-[0-9]+-of-[0-9]+$")


def card_path(file: Path) -> Path:
    """Where the card of a converted file lies: shards whose names differ in their number alone have one together.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.companions import card_path
        >>> print(card_path(Path("data/train.beton")), card_path(Path("shards/train-0001.tar")))
        data/train.beton.json shards/train.json
    """
    if shard_kind(file):
        return file.with_name(_SHARD_ENDING.sub("", file.name) + ".json")
    return file.with_name(file.name + ".json")


def record_list_path(file: Path) -> Path:
    """Where the record list of a converted file lies.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.companions import record_list_path
        >>> print(record_list_path(Path("data/train.beton")))
        data/train.beton.records.tsv
    """
    return file.with_name(file.name + ".records.tsv")


def class_names(path: Path) -> tuple[str, ...] | None:
    """The names of a dataset's classes, by label: an ImageFolder's folders, or what the card has; None without one.

    Args:
        path: A `.beton` file, an ImageFolder or shards (`find_shards` says which paths name them).

    Raises:
        FastvitError: A card is damaged, or those of several shards differ.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.companions import class_names
        >>> class_names(Path("photos"))
        ('cat', 'dog')
    """
    shards = find_shards(path)
    if not shards and path.is_dir():
        return class_folders(path)
    return classes_on_cards(shards or [path])


def classes_on_cards(files: Sequence[Path]) -> tuple[str, ...] | None:
    """The names of the classes, by label, that the card next to converted files has; None without a card.

    Raises:
        FastvitError: A card is damaged, or there are several that differ.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.companions import classes_on_cards
        >>> classes_on_cards([Path("train.beton")]) is None  # it has no card
        True
    """
    cards = sorted(set(map(card_path, files)))
    found = {tuple(read_card(card, "class_names")["class_names"]): card for card in cards if card.is_file()}
    if len(found) > 1:
        raise FastvitError(
            f"{' and '.join(map(str, found.values()))} name different classes; take the files of one after the other"
        )
    return next(iter(found), None)


def read_card(path: Path, *needed: str) -> dict[str, Any]:
    """The entries of a card, of which those that are needed are there and, where loading rests on them, checked.

    Raises:
        FastvitError: The card is missing or damaged.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.companions import read_card
        >>> read_card(Path("missing.json"), "class_names")
        Traceback (most recent call last):
        loaders.errors.FastvitError: missing.json: No such file or directory; the card must lie next to its file
    """
    try:
        entries = json.loads(path.read_bytes())
        if not isinstance(entries, dict):
            raise ValueError(f"a {type(entries).__name__}, not an object")
        for name in needed:
            if name not in entries:
                raise ValueError(f"it has no {name!r}")
            is_right, expected = _ENTRIES.get(name, (lambda _: True, ""))
            if not is_right(entries[name]):
                raise ValueError(f"{name} is {repr(entries[name])[:80]}, expected {expected}")
    except OSError as error:
        raise FastvitError(f"{path}: {error.strerror}; the card must lie next to its file") from error
    except (ValueError, RecursionError) as error:
        raise FastvitError(
            f"{path}: no card of this version ({error}); copy it again or convert again, or move it away to do without "
            "its class_names and counts"
        ) from error
    return entries


def _are_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


_ENTRIES: dict[str, tuple[Callable[[object], bool], str]] = {
    "class_names": (_are_names, "a list of strings"),
    "num_images": (_is_count, "a positive number"),
    "num_classes": (_is_count, "a positive number"),
}
"""What the entries that are read by themselves must be, and in words."""


def checked_classes(names: object, *, where: str) -> tuple[str, ...]:
    """A list of classes' names that was read from JSON, as a tuple.

    Raises:
        FastvitError: It is none.

    Examples:
        >>> from loaders.companions import checked_classes
        >>> checked_classes(["cat", "dog"], where="classes.json")
        ('cat', 'dog')
    """
    if not _are_names(names):
        raise FastvitError(f"{where}: the class names are {str(names)[:80]}, expected a list of strings")
    return tuple(names)


def source_names(path: Path) -> list[str] | None:
    """What the images of a converted dataset were called in its source, in its order; None without a record list.

    The names are as they stand in the list: what its writer escaped stays escaped.

    Args:
        path: A `.beton` file or shards.

    Raises:
        OSError: A list cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.companions import source_names
        >>> source_names(Path("train.beton")) is None  # no converter wrote it
        True
    """
    lists = [record_list_path(file) for file in find_shards(path) or [path]]
    if not all(path.is_file() for path in lists):
        return None
    return [name for path in lists for name in _listed_names(path)]


def _listed_names(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            columns = line.rstrip("\n").split("\t")
            if columns[0] != "skipped":
                yield columns[-1]
