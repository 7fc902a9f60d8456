"""ReaL labels: for each image, all classes that people see in it.

Source: "Are we done with ImageNet?", arXiv 2006.07159; https://github.com/google-research/reassessed-imagenet
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders.companions import source_names
from loaders.errors import FastvitError
from loaders.records import ImageRecords

__all__ = ["RealHits", "read_real_labels"]

_VAL_IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG$")
# ReaL agrees with ImageNet's own label of nine images in ten; in a wrong order it agrees with next to none.
_LEAST_AGREEMENT = 0.5


def read_real_labels(
    path: Path, *, data: Path, records: ImageRecords, labels: NDArray[np.int64], num_classes: int
) -> list[list[int]]:
    """Read the lists for a dataset's images, in the dataset's order.

    Args:
        path: JSON: a list with a list of class numbers for each image. If all images of the dataset are called
            `ILSVRC2012_val_00000001.JPEG` and so on, list 0 is that of image 1; else the lists are in the dataset's
            order.
        data: The dataset.
        records: What it opens as.
        labels: int64 [n], the model's class for each of its images.
        num_classes: The model's.

    Raises:
        FastvitError: The file is no such list, or its lists are not those of these images.
    """
    try:
        lists = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FastvitError(f"cannot read the ReaL labels {path}: {error}") from error
    if not isinstance(lists, list) or not all(_are_classes(entry, num_classes) for entry in lists):
        raise FastvitError(
            f"{path} must be a list of lists of class numbers, 0 to {num_classes - 1}, one for each image"
        )
    names = source_names(data) or [records.name(index) for index in range(len(labels))]
    numbers = _validation_numbers(names)
    order = range(len(labels)) if numbers is None else [number - 1 for number in numbers]
    if max(order) >= len(lists) or min(order) < 0 or (numbers is None and len(lists) != len(labels)):
        raise FastvitError(f"{path} has lists for {len(lists)} images, {data} has {len(labels)}; they are no pair")
    ordered = [lists[place] for place in order]
    agreement = [label in entry for label, entry in zip(labels.tolist(), ordered, strict=True) if entry]
    if sum(agreement) < _LEAST_AGREEMENT * len(agreement):
        raise FastvitError(
            f"{path} lists the label of only {sum(agreement)} of {len(agreement)} images of {data}; "
            "its lists are in another order, or of another dataset"
        )
    return ordered


def _are_classes(entry: object, num_classes: int) -> bool:
    return isinstance(entry, list) and all(type(number) is int and 0 <= number < num_classes for number in entry)


def _validation_numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers in the names of ImageNet's validation images, if all are such."""
    found = [_VAL_IMAGE.search(name) for name in names]
    return [int(match[1]) for match in found if match] if all(found) else None


class RealHits:
    """Counts the images whose prediction is one of the right classes, on the device."""

    def __init__(self, lists: Sequence[Sequence[int]], *, num_classes: int, device: torch.device) -> None:
        self._is_right = torch.zeros(len(lists), num_classes, dtype=torch.bool)
        rows = [row for row, entry in enumerate(lists) for _ in entry]
        self._is_right[rows, [number for entry in lists for number in entry]] = True
        self._is_right = self._is_right.to(device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, index: Tensor) -> None:
        """Add a batch: logits [b, classes] of the images `index`, int64 [b]."""
        right = self._is_right[index]
        hits = right.gather(1, logits.argmax(dim=1, keepdim=True)).sum()
        self._sums += torch.stack([hits, right.any(dim=1).sum()])

    def sums(self) -> Tensor:
        """Hits, and images that have a right class: float64 [2], on the device."""
        return self._sums
