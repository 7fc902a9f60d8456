"""Rows of the experiments: what their run folders tell."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.plan.job import describe_job
from benchmarks.reference.experiments import Scale
from benchmarks.reference.runs import PlannedRun
from benchmarks.row_files import Row, read_rows, replace_rows
from fastvit_train.config import Config
from fastvit_train.metrics import read_metrics
from fastvit_train.run_folder import METRICS, RESULT
from fastvit_train.schedule import Phase
from fastvit_train.teacher import untrained_teacher

__all__ = ["existing_rows", "keep_row", "last_epoch_accuracy", "run_row", "training_flops"]

_NUM_CLASSES = 10
"""Of CIFAR-10, on which distilled models are trained."""


def run_row(run: PlannedRun, *, scale: Scale) -> Row:
    """The row of a run that is done."""
    experiment, config, data_set = run.experiment, run.config, run.data_set
    path = run.folder / RESULT
    result = json.loads(path.read_text())
    teacher_seconds = result.get("teacher_seconds")
    seconds = result["train_seconds"] + result["eval_seconds"] + (teacher_seconds or 0)
    return {
        "benchmark": "reference",
        "scale": scale,
        "experiment": experiment.name,
        "title": experiment.title,
        "part": experiment.part,
        "family": experiment.family,
        "reference": experiment.reference,
        "preset": config.preset,
        "arch": config.arch,
        "epochs": config.epochs,
        "resolution": config.data.resolution,
        "seed": config.seed,
        "fraction": experiment.fraction,
        "num_train_images": data_set.num_train_images,
        "starts_from": experiment.starts_from,
        **{name: result[name] for name in ("top1", "top1_averaged")},
        "train_top1": last_epoch_accuracy(read_metrics(run.folder / METRICS)),
        **{name: result[name] for name in ("num_parameters", "train_seconds")},
        "teacher_seconds": teacher_seconds,
        "eval_seconds": result["eval_seconds"],
        "device_hours": seconds * result["world_size"] / 3600,
        "images_per_second": result["images_per_second"],
        "flops": training_flops(config, num_images=data_set.num_train_images),
        **{name: result[name] for name in ("device", "world_size")},
        "command": run.command,
        **{name: result[name] for name in ("commit", "dirty")},
        "date": datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        **{name: result[name] for name in ("versions", "machine")},
    }


def last_epoch_accuracy(lines: Iterable[Row]) -> float | None:
    """Share of the images of the last epoch that were right in its training steps; None of a run without steps."""
    steps = [line for line in lines if line["kind"] == "train"]
    weighted = [
        (line["step"] - before["step"], line["accuracy"])
        for before, line in itertools.pairwise([{"step": 0}, *steps])
        if line["epoch"] == steps[-1]["epoch"]
    ]
    num_steps = sum(weight for weight, _ in weighted)
    return sum(weight * accuracy for weight, accuracy in weighted) / num_steps if num_steps else None


def training_flops(config: Config, *, num_images: int) -> float:
    """Operations of all training steps, forward and backward, with the teacher's training and its answers."""
    job = describe_job(config, num_images=num_images, num_val_images=0)
    images = Counter[Phase]()
    for epoch in job.epochs:
        images[epoch.phase] += epoch.num_steps * config.batch_size
    total = sum(count * job.flops_per_image[phase] for phase, count in images.items())
    teacher = untrained_teacher(config, Path(), _NUM_CLASSES)
    if teacher is None:
        return total
    answers = sum(count * teacher.flops_per_image(phase.resolution) for phase, count in images.items())
    return total + answers + training_flops(teacher.config, num_images=num_images)


def existing_rows(path: Path) -> list[Row]:
    """The rows of a file; none where there is none yet."""
    return read_rows(path) if path.exists() else []


def keep_row(path: Path, row: Row) -> None:
    """Put the row of an experiment in place of the one before, whose model's inference then no longer counts."""
    if row in existing_rows(path):
        return
    name = row["experiment"]
    replace_rows(path, [row], is_old=lambda old: old.get("experiment") == name or old.get("run") == name)
