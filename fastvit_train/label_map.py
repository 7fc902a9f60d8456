"""Which class of a model is meant by a class of another dataset."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders import Batch, ImageLoader
from loaders.companions import checked_classes
from loaders.contract import BadSample, SaysWhatItReads
from loaders.errors import FastvitError

__all__ = ["Relabelled", "classes_in_model", "read_class_names", "read_label_map", "same_text"]


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


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of classes by label: a JSON list of strings, or text with one name on each line.

    Raises:
        FastvitError: The file cannot be read, or is something else.
    """
    remedy = "--data.classes takes a JSON list of strings, or text with one name on each line"
    try:
        text = path.read_text("utf-8-sig").strip()
        names = json.loads(text) if text.startswith(("[", "{")) else [line.strip() for line in text.split("\n")]
    except OSError as error:
        raise FastvitError(f"{path}: {error.strerror}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise FastvitError(f"{path} has no class names ({error}); {remedy}") from error
    if not text or "" in names:
        raise FastvitError(f"{path}: it is empty or has a line without a name; {remedy}")
    return checked_classes(names, where=str(path))


def classes_in_model(
    labels: NDArray[np.int64],
    names: Sequence[str] | None,
    *,
    model_names: Sequence[str] | None,
    num_model_classes: int,
    label_map: Mapping[str, str | int],
    where: Path,
    remedy: str = "name the one that is meant in --label-map",
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
        remedy: What to do about a class that is not found, for messages.

    Raises:
        FastvitError: A class is none of the model's, or the label map has a class that the dataset has not.
    """
    present = np.unique(labels).tolist()
    if not all(0 <= label < (len(names) if names is not None else label + 1) for label in present):
        raise FastvitError(f"{where} has labels from {present[0]} to {present[-1]}, but names for {len(names or ())}")
    known = set(names) if names is not None else set(map(str, present))
    if unknown := sorted(set(label_map) - known):
        raise FastvitError(f"the label map names {unknown[0]!r}, which is no class of {where}; take it out")
    numbers = None if model_names is None else _numbers_by_name(model_names)
    first_by_name = present[-1] + 1
    if names is not None and model_names is not None:
        # Names may be there twice (ImageNet has two cranes): in the same list, each label means the same class.
        first_by_name = len(model_names) if list(names[: len(model_names)]) == list(model_names) else 0
    found = {}
    for label in present:
        name = str(label) if names is None else names[label]
        wanted = label_map.get(name, name if label >= first_by_name else label)
        try:
            found[label] = _number(wanted, numbers, num_model_classes)
        except LookupError as error:
            raise FastvitError(f"the class {name!r} of {where} {error.args[0]}; {remedy}") from error
    return found


def _number(wanted: str | int, numbers: Mapping[str, Sequence[int]] | None, num_classes: int) -> int:
    """The number of the model's class that is called so, or has that number already."""
    if isinstance(wanted, int):
        if not 0 <= wanted < num_classes:
            raise LookupError(f"would be {wanted}, but the model's are 0 to {num_classes - 1}")
        return wanted
    if numbers is None:
        raise FastvitError(f"the label map has the name {wanted!r}, but the checkpoint has no names; give its number")
    found = numbers.get(same_text(wanted), ())
    if len(found) != 1:
        raise LookupError(f"is {len(found) or 'none'} of the model's {num_classes} classes by name")
    return found[0]


def same_text(name: str) -> str:
    """A name as it is compared: macOS writes letters and their accents apart, other systems as one."""
    return unicodedata.normalize("NFC", name)


def _numbers_by_name(names: Sequence[str]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(same_text(name), []).append(number)
    return numbers


class Relabelled:
    """An `ImageLoader` whose labels are those of a model.

    Args:
        loader: The dataset.
        classes: The new label for each of its labels.
    """

    def __init__(self, loader: ImageLoader, classes: Mapping[int, int]) -> None:
        self._loader = loader
        self._before = torch.tensor(sorted(classes))
        self._after = torch.tensor([classes[label] for label in sorted(classes)])

    def __iter__(self) -> Iterator[Batch]:
        for images, labels, index in self._loader:
            yield Batch(images, self._new(labels), index)

    def _new(self, labels: Tensor) -> Tensor:
        self._before, self._after = self._before.to(labels.device), self._after.to(labels.device)
        return self._after[torch.searchsorted(self._before, labels)]

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def skipped(self) -> Sequence[BadSample]:
        """See `ImageLoader.skipped`."""
        return self._loader.skipped

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """See `ImageLoader.set_epoch`."""
        self._loader.set_epoch(epoch, resolution=resolution, skip_batches=skip_batches)

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work`."""
        return self._loader.at_work() if isinstance(self._loader, SaysWhatItReads) else []

    def close(self) -> None:
        """See `ImageLoader.close`."""
        self._loader.close()
