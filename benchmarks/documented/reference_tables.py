"""Tables of `fastvit-bench reference` on two cores: what was reached, next to what is published."""

from collections.abc import Callable

from benchmarks.documented.table import (
    Column,
    Line,
    Table,
    by,
    calculated,
    code,
    figure,
    first,
    number,
    percent,
    rate,
    text,
)
from benchmarks.reference.conclusions import Pair, distilled_pairs, pretrained_pairs, total_seconds
from benchmarks.reference.published import PUBLISHED, Published
from benchmarks.row_files import Row

__all__ = ["TABLES"]

_FILES = ("zen4_*_reference.jsonl",)
_FINE_TUNING = "zen4_2026-11-27_fine_tuning.jsonl"
_PRETRAINED = "vit-small-tiny-imagenet"


def _rows(is_shown: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: row["benchmark"] == "reference" and is_shown(row)


def _task(cell: Callable[[Published], str]) -> Column:
    """A column of what is published about a line's task."""

    def found(line: Line) -> str:
        task = PUBLISHED.get(line[0].get("reference") or "")
        return "" if task is None else cell(task)

    return found


def _gap(line: Line) -> float:
    return 100 * (figure(line, "top1", family="ResNet") - figure(line, "top1", family="ViT"))


def _gain_of_pretraining(line: Line) -> float:
    return 100 * (figure(line, "top1", starts_from=_PRETRAINED) - figure(line, "top1", starts_from=None))


def _whole_or_share(row: Row) -> bool:
    """Whether it is one of the two models that saw all data and shares of it."""
    return row["part"] == "fractions" or row.get("reference") in ("vit-small-cifar10", "resnet-fast-cifar10")


def _epochs(**match: object) -> Column:
    """A column: epochs, which need not be whole."""
    return lambda line: "" if (found := first(line, "epochs", **match)) is None else f"{found:g}"


def _tried(row: Row) -> str | None:
    """What a row is compared for; `None` where it is for nothing."""
    if row.get("starts_from") or row["part"] == "pretraining":
        return "pretraining"
    return "a teacher" if row["part"] == "distillation" or row.get("reference") == "vit-small-cifar10" else None


def _tried_once(row: Row) -> tuple[str, int] | None:
    """The same, of one seed."""
    tried = _tried(row)
    return None if tried is None else (tried, row["seed"])


def _pair(line: Line) -> Pair:
    found = [*pretrained_pairs(line), *distilled_pairs(line)]
    if not found:
        raise LookupError("nothing to compare with")
    return found[0]


TABLES = {
    "reference-table": Table(
        files=_FILES,
        where=_rows(lambda row: row["part"] == "table" or bool(row.get("reference"))),
        columns={
            "experiment": text("title"),
            "top-1": percent("top1", 2),
            "averaged": percent("top1_averaged", 2),
            "train": percent("train_top1"),
            "course project": _task(lambda task: task.project),
            "best published": _task(lambda task: task.best_and_source),
            "epochs": _epochs(),
            "seed": number("seed"),
            "device hours": number("device_hours", 2),
            "images/s": number("images_per_second"),
        },
    ),
    "reference-shares": Table(
        files=_FILES,
        where=_rows(_whole_or_share),
        line=by("fraction"),
        order=lambda line: float(line[0]["fraction"]),
        columns={
            "share of CIFAR-10": percent("fraction", 0),
            "images": number("num_train_images"),
            "small ViT": percent("top1", 2, family="ViT"),
            "fast ResNet": percent("top1", 2, family="ResNet"),
            "the ResNet is ahead by": calculated(_gap, 1, unit=" points"),
            "epochs of the ViT": _epochs(family="ViT"),
            "epochs of the ResNet": _epochs(family="ResNet"),
        },
    ),
    "reference-gains": Table(
        files=_FILES,
        where=_rows(lambda row: _tried(row) is not None),
        line=_tried_once,
        columns={
            "small ViT with": lambda line: str(_tried(line[0])),
            "seed": number("seed"),
            "with it": calculated(lambda line: 100 * _pair(line).row["top1"], 2, unit=" %"),
            "without": calculated(lambda line: 100 * _pair(line).plain["top1"], 2, unit=" %"),
            "gain": calculated(lambda line: _pair(line).gain, 1, unit=" points"),
            "minutes with it": calculated(lambda line: total_seconds(_pair(line).row) / 60, 1),
            "minutes without": calculated(lambda line: total_seconds(_pair(line).plain) / 60, 1),
        },
    ),
    "reference-lengths": Table(
        files=(*_FILES, _FINE_TUNING),
        where=lambda row: row.get("starts_from") == _PRETRAINED or row.get("part") == "pretraining",
        line=by("epochs"),
        order=lambda line: float(line[0]["epochs"]),
        columns={
            "epochs on CIFAR-10": _epochs(),
            "pretrained": percent("top1", 2, starts_from=_PRETRAINED),
            "from scratch": percent("top1", 2, starts_from=None),
            "gain": calculated(_gain_of_pretraining, 1, unit=" points"),
            "minutes pretrained": number("train_seconds", 1, scale=1 / 60, starts_from=_PRETRAINED),
            "minutes from scratch": number("train_seconds", 1, scale=1 / 60, starts_from=None),
        },
    ),
    "reference-inference": Table(
        files=_FILES,
        where=lambda row: row["benchmark"] == "inference",
        columns={
            "model": code("model"),
            "batch": number("batch_size"),
            "precision": text("precision"),
            "compiled": lambda line: "yes" if line[0]["compiled"] else "",
            "images/s": rate(),
            "latency": number("latency_seconds", 1, scale=1e3, unit=" ms"),
            "95th percentile": number("latency_seconds_p95", 1, scale=1e3, unit=" ms"),
            "GFLOP an image": number("flops_per_image", 2, scale=1e-9),
            "peak MiB": number("peak_rss_bytes", scale=2**-20),
            "top-1": percent("top1", 2),
        },
    ),
}
