"""What rows of the reference experiments are compared for: less data, pretraining, distillation.

It needs nothing but Python, so that documents are made from rows where there is no torch.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.reference.published import PUBLISHED
from benchmarks.row_files import Row

__all__ = ["Pair", "Share", "distilled_pairs", "over_seeds", "pretrained_pairs", "shares", "total_seconds"]

_AVERAGED = (
    *("top1", "top1_averaged", "train_top1", "train_seconds", "teacher_seconds", "eval_seconds", "device_hours"),
    "images_per_second",
)


class Share(NamedTuple):
    """What a ViT and a ResNet reach with a share of the training images; `None` where it was not trained yet."""

    fraction: float
    vit: Row | None
    resnet: Row | None

    @property
    def gap(self) -> float | None:
        """By how many points the ResNet is ahead."""
        return None if self.vit is None or self.resnet is None else 100 * (self.resnet["top1"] - self.vit["top1"])


class Pair(NamedTuple):
    """The same model trained in two ways."""

    row: Row
    """With what is tried: pretraining, a teacher."""
    plain: Row
    """Without it."""

    @property
    def gain(self) -> float:
        """By how many points the first is ahead."""
        return 100 * float(self.row["top1"] - self.plain["top1"])

    @property
    def cost_ratio(self) -> float:
        """How many times the time of the second the first takes, a teacher of the same run included."""
        return total_seconds(self.row) / total_seconds(self.plain)


def total_seconds(row: Row) -> float:
    """Training, and that of the teacher of the same run."""
    return float(row["train_seconds"] + (row.get("teacher_seconds") or 0.0))


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row for each experiment: the mean of its seeds, with their number and the lowest and highest accuracy."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["experiment"], []).append(row)
    return [_mean(seeds) for seeds in found.values()]


def _mean(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return {**rows[0], "num_seeds": 1}
    known = {name: [row[name] for row in rows if row.get(name) is not None] for name in _AVERAGED}
    means = {name: statistics.mean(values) for name, values in known.items() if values}
    return {**rows[0], **means, "num_seeds": len(rows), "top1_interval": [min(known["top1"]), max(known["top1"])]}


def shares(rows: Sequence[Row]) -> list[Share]:
    """What both families reach with each share of CIFAR-10, the smallest first; empty where none was left out.

    Args:
        rows: One for each experiment.
    """
    less = [row for row in rows if row["part"] == "fractions"]
    recipes = {(row["preset"], row["arch"]) for row in less}
    # With all images, the recipes are those of the table.
    whole = [row for row in rows if _is_plain(row) and row["part"] == "table"]
    used = [*less, *(row for row in whole if (row["preset"], row["arch"]) in recipes)]
    by_family: Mapping[str, dict[float, Row]] = {
        family: {row["fraction"]: row for row in used if row["family"] == family} for family in ("ViT", "ResNet")
    }
    fractions = sorted({row["fraction"] for row in used})
    return [
        Share(fraction, by_family["ViT"].get(fraction), by_family["ResNet"].get(fraction)) for fraction in fractions
    ]


def pretrained_pairs(rows: Sequence[Row]) -> list[Pair]:
    """Fine-tuned models, each with the same model from scratch that was trained as long.

    Args:
        rows: One for each experiment.
    """
    short = [row for row in rows if row["part"] == "pretraining"]
    tuned = [row for row in rows if row.get("starts_from")]
    return [Pair(row, plain) for row in tuned for plain in short if plain["arch"] == row["arch"]]


def distilled_pairs(rows: Sequence[Row]) -> list[Pair]:
    """Models with a teacher, each with the plain one whose time is closest: one made for that, else of the table.

    Args:
        rows: One for each experiment.
    """
    found = []
    for row in rows:
        if not row.get("teacher_seconds"):
            continue
        seconds = total_seconds(row)
        plain = [other for other in rows if _is_plain(other) and other["arch"] == row["arch"]]
        made_for_it = [other for other in plain if other["part"] == "distillation"]
        candidates = made_for_it or [other for other in plain if other["part"] == "table"]
        if candidates:
            found.append(Pair(row, min(candidates, key=_distance_to(seconds))))
    return found


def _distance_to(seconds: float) -> Callable[[Row], float]:
    return lambda row: abs(total_seconds(row) - seconds)


def _is_plain(row: Row) -> bool:
    """Whether it is trained from scratch, without a teacher, on all of CIFAR-10."""
    task = PUBLISHED.get(row.get("reference") or "")
    is_cifar10 = task is None or task.data == "CIFAR-10"
    return is_cifar10 and row["fraction"] == 1.0 and not row.get("starts_from") and not row.get("teacher_seconds")
