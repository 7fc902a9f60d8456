"""The names of classes whose labels are numbers: those that something told, or the numbers as text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError

__all__ = ["classes_of"]

_MAX_UNNAMED_CLASSES = 1 << 20  # one damaged label must not make billions of names


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
