"""The labels of parquet files: numbers of classes, or classes by name."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loaders.errors import FastvitError

__all__ = ["Labels", "number_labels", "read_labels"]

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


class Labels(NamedTuple):
    """What a file's column says."""

    numbers: NDArray[np.int64]
    """int64 [rows]: the labels, or where they stand in `texts`."""
    texts: list[str] | None
    """The labels that occur, where they are text."""


def read_labels(path: Path, column: pa.ChunkedArray) -> Labels:
    """The labels in a column of integers or text.

    Raises:
        FastvitError: A row has none.
        ArrowException: A number is too large.
    """
    if column.null_count:
        raise FastvitError(f"{path}: {column.null_count} rows have no label; name the files of a labelled split")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return Labels(column.cast(pa.int64()).to_numpy(), None)
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    return Labels(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())


def number_labels(
    paths: Sequence[Path], labels: Sequence[Labels], known: tuple[str, ...] | None
) -> tuple[list[NDArray[np.int64]], tuple[str, ...] | None]:
    """The number of every row's class, int64 [rows] of each file, and the classes' names, if there are any.

    Labels that are text have the numbers of the known names. Without these, they are numbers if all look like that, and
    else names, whose numbers are their places in sorted order.

    Args:
        paths: The files, for messages.
        labels: What they say.
        known: The names of the classes, where the files tell them.

    Raises:
        FastvitError: Some files have numbers and others text, or a text is none of the known names.
    """
    texts = [part.texts for part in labels if part.texts is not None]
    if not texts:
        return [part.numbers for part in labels], known
    if len(texts) < len(labels):
        raise FastvitError(f"{paths[0]}: labels are numbers in some files and text in others; convert them apart")
    found = sorted({text for part in texts for text in part})
    if known is None and all(map(_NUMBER.fullmatch, found)):
        numbers = {text: int(text) for text in found}
    else:
        known = known or tuple(found)
        numbers = {name: number for number, name in enumerate(known)}
        if strangers := [text for text in found if text not in numbers]:
            raise FastvitError(
                f"{paths[0]}: a label is {strangers[0]!r}, which is none of the {len(known)} names of its ClassLabel"
            )
    tables = [np.array([numbers[text] for text in part], np.int64) for part in texts]
    return [table[part.numbers] for table, part in zip(tables, labels, strict=True)], known
