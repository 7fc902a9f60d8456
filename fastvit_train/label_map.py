"""Which class of a model is meant by a class of another dataset."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders import Batch, ImageLoader
from loaders.contract import BadSample
from loaders.errors import FastvitError

__all__ = ["Relabelled", "classes_in_model", "read_label_map"]


def read_label_map(path: Path) -> dict[str, str | int]:
    """Read a JSON object from classes of a dataset to classes of a model, names or numbers.

    Raises:
        FastvitError: The file cannot be read, or is something else.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FastvitError(f"cannot read the label map {path}: {error}") from error
    if not isinstance(values, dict) or not all(type(value) in (str, int) for value in values.values()):
        raise FastvitError(
            f'the label map {path} must be an object from classes to names or numbers, such as {{"0": "n01440764"}}'
        )
    return values


def classes_in_model(
    labels: NDArray[np.int64],
    names: Sequence[str] | None,
    *,
    model_names: Sequence[str] | None,
    num_model_classes: int,
    label_map: Mapping[str, str | int],
    where: Path,
) -> dict[int, int]:
    """The model's class for each label of a dataset.

    Args:
        labels: int64 [n], of the dataset.
        names: The dataset's classes by label, where it has names for them.
        model_names: The model's classes by number, where it has names for them.
        num_model_classes: How many those are.
        label_map: Names (or numbers as text) of the dataset's classes, and what they are in the model; classes that are
            not in it are found by name if both have names, else by number.
        where: The dataset, for messages.

    Raises:
        FastvitError: A class is none of the model's, or the label map has a class that the dataset has not.
    """
    found = {}
    present = np.unique(labels).tolist()
    if not all(0 <= label < (len(names) if names is not None else label + 1) for label in present):
        raise FastvitError(f"{where} has labels from {present[0]} to {present[-1]}, but names for {len(names or ())}")
    known = set(names) if names is not None else set(map(str, present))
    if unknown := sorted(set(label_map) - known):
        raise FastvitError(f"the label map names {unknown[0]!r}, which is no class of {where}; take it out")
    for label in present:
        name = str(label) if names is None else names[label]
        by_itself = label if names is None or model_names is None else name
        found[label] = _number(label_map.get(name, by_itself), model_names, num_model_classes, f"{name!r} of {where}")
    return found


def _number(wanted: str | int, names: Sequence[str] | None, num_classes: int, what: str) -> int:
    """The number of the model's class that is called so, or has that number already."""
    if isinstance(wanted, int):
        if not 0 <= wanted < num_classes:
            raise FastvitError(
                f"the class {what} would be {wanted}, but the model's are 0 to {num_classes - 1}; {_HOW}"
            )
        return wanted
    if names is None:
        raise FastvitError(f"the class {what} is {wanted!r} by name, but the checkpoint has no names; give its number")
    numbers = [number for number, name in enumerate(names) if name == wanted]
    if len(numbers) != 1:
        problem = "none" if not numbers else f"{len(numbers)}"
        raise FastvitError(f"the class {what} is {problem} of the model's {num_classes} classes by name; {_HOW}")
    return numbers[0]


_HOW = "name the one that is meant in --label-map"


class Relabelled:
    """An `ImageLoader` whose labels are those of a model.

    Args:
        loader: The dataset.
        classes: The new label for each of its labels.
    """

    def __init__(self, loader: ImageLoader, classes: Mapping[int, int]) -> None:
        self._loader = loader
        self._table = torch.full((max(classes) + 1,), -1)
        self._table[list(classes)] = torch.tensor(list(classes.values()))

    def __iter__(self) -> Iterator[Batch]:
        for images, labels, index in self._loader:
            yield Batch(images, self._new(labels), index)

    def _new(self, labels: Tensor) -> Tensor:
        return self._table.to(labels.device)[labels]

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def skipped(self) -> Sequence[BadSample]:
        """See `ImageLoader.skipped`."""
        return self._loader.skipped

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """See `ImageLoader.set_epoch`."""
        self._loader.set_epoch(epoch, resolution=resolution, skip_batches=skip_batches)

    def close(self) -> None:
        """See `ImageLoader.close`."""
        self._loader.close()
