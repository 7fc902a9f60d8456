"""The names of classes whose labels are numbers: from a card beside the files, or the numbers as text."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError

__all__ = ["checked_classes", "classes_of", "read_card_classes"]

_MAX_UNNAMED_CLASSES = 1 << 20  # one damaged label must not make billions of names


def read_card_classes(card: Path) -> tuple[str, ...] | None:
    """The `class_names` of a converter's card, or None where there is no such file.

    Raises:
        FastvitError: It is there, but is no card.
    """
    if not card.is_file():
        return None
    try:
        names = json.loads(card.read_bytes())["class_names"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise FastvitError(
            f"{card}: no card with class_names; fix it, or move it away to number the classes"
        ) from error
    return checked_classes(names, where=str(card))


def checked_classes(names: object, *, where: str) -> tuple[str, ...]:
    """A list of names that was read from JSON, as a tuple.

    Raises:
        FastvitError: It is none.
    """
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise FastvitError(f"{where}: the class names are {str(names)[:80]}, expected a list of strings")
    return tuple(names)


def classes_of(labels: NDArray[np.int64], known: Sequence[str] | None, *, where: str) -> tuple[str, ...]:
    """The classes' names, by label: the known ones, else the numbers up to the highest label as text.

    Args:
        labels: int64 [n], at least one.
        known: The names, where something told them.
        where: The source, for messages.

    Raises:
        FastvitError: A label is no index into the names, or is out of all bounds.
    """
    limit = _MAX_UNNAMED_CLASSES if known is None else len(known)
    bad = (labels < 0) | (labels >= limit)
    if bad.any():
        index = int(bad.argmax())
        raise FastvitError(f"{where}: sample {index} has the label {labels[index]}, expected 0 to {limit - 1}")
    return tuple(known) if known is not None else tuple(map(str, range(int(labels.max()) + 1)))
