"""Tables of what was measured on GPUs."""

from collections.abc import Callable

from benchmarks.documented.table import (
    Columns,
    Line,
    Table,
    calculated,
    figure,
    first,
    having,
    number,
    percent,
    rate,
    text,
)
from benchmarks.row_files import Row

__all__ = ["TABLES"]

_ACCEPT = "h200_2026-11-27_accept.jsonl"
_BEFORE = "h200_2026-11-27_before.jsonl"
_ACCURACY = "h200_2026-11-27_accuracy.jsonl"
# Rows of before do not name the model, rows of kernels not the preset.
_MODELS = {
    "imagenet-vit-b16-130": "ViT-B/16",
    "cifar10-vit-small-fast": "small ViT",
    "cifar10-resnet-fast": "resnet-fast",
    "imagenet-resnet50-ffcv": "ResNet-50",
}


def _is_before(row: Row) -> bool:
    is_old_code = row["file"] == _BEFORE and str(row["name"]).endswith(", before this round")
    return is_old_code and bool(row["backend"] == "synthetic")


def _is_now(row: Row) -> bool:
    return having(file=_ACCEPT, stage="train", status="passed")(row)


def _is_matmul(row: Row) -> bool:
    return having(file=_ACCEPT, what="matmul")(row)


def _model(row: Row) -> str | None:
    return None if _is_matmul(row) else row.get("model") or _MODELS[row["preset"]]


def _of_before(column: Callable[[Line], str]) -> Callable[[Line], str]:
    return lambda line: column([row for row in line if row["file"] == _BEFORE])


def _training(rows: Line) -> Columns:
    matmul = next(row["value"] for row in rows if _is_matmul(row)) * 1e12
    return {
        "model": _setting,
        "images/s": rate(file=_ACCEPT),
        "before": _of_before(rate()),
        "goal for one H100": number("goal_images_per_second"),
        "share of the matmul ceiling": calculated(
            lambda line: 100 * line[0]["images_per_second"] * line[0]["flops_per_image"] / matmul, 1, unit=" %"
        ),
        "GiB": number("peak_device_memory_bytes", 1, scale=2**-30, file=_ACCEPT),
    }


def _setting(line: Line) -> str:
    return f"{_model(line[0])}, {first(line, 'resolution')} px, {first(line, 'batch_size')}"


TABLES = {
    "h200-train": Table(
        files=(_ACCEPT, _BEFORE),
        where=lambda row: (_is_now(row) and "images_per_second" in row) or _is_before(row) or _is_matmul(row),
        line=_model,
        columns=_training,
    ),
    "h200-step": Table(
        files=(_ACCEPT, _BEFORE),
        where=lambda row: (_is_now(row) and row["model"] in _MODELS.values()) or _is_before(row),
        line=_model,
        columns={
            "model": lambda line: str(_model(line[0])),
            "ms of a step": number("step_milliseconds", 1, file=_ACCEPT),
            "device busy, ms": number("device_milliseconds", 1),
            "host, ms": number("host_milliseconds", 1, file=_ACCEPT),
            "host before, ms": _of_before(number("host_milliseconds", 1)),
            "kernels": number("kernels_per_step"),
        },
    ),
    "h200-phases": Table(
        files=(_ACCURACY,),
        where=having(name="vit-small-h100"),
        columns={
            "images/s at 24 px, half of the patches": number("rate_by_phase__24 px, 0.5 dropped"),
            "seconds for 45 epochs": calculated(
                lambda line: 45 * 50_000 / figure(line, "rate_by_phase__24 px, 0.5 dropped")
            ),
            "images/s at 32 px": number("rate_by_phase__32 px, 0 dropped"),
            "seconds for 55 epochs": calculated(
                lambda line: 55 * 50_000 / figure(line, "rate_by_phase__32 px, 0 dropped")
            ),
        },
    ),
    "h200-readme": Table(
        files=(_ACCEPT, _BEFORE),
        where=lambda row: "images_per_second" in row and (_is_now(row) or _is_before(row)),
        line=_model,
        columns={
            "training, bf16, compiled, each step one CUDA graph": _setting,
            "images/s": rate(file=_ACCEPT),
            "without the graph and what came with it": _of_before(rate()),
        },
    ),
    "h200-runs": Table(
        files=(_ACCURACY,),
        where=lambda row: "top1" in row,
        columns={
            "`cifar10-resnet-fast`, epochs": number("epochs"),
            "seed": text("seed"),
            "top-1, averaged over six views": percent("top1_averaged", 2),
            "top-1, one view": percent("top1", 2),
            "training, s": number("train_seconds", 1),
        },
    ),
}
