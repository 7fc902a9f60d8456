"""Tables of runs of `fastvit-train`, and of its steps."""

import statistics
from collections.abc import Callable

from benchmarks.documented.table import (
    Column,
    Line,
    Table,
    by,
    calculated,
    code,
    distinct,
    figure,
    first,
    having,
    number,
    percent,
    rate,
    text,
)
from benchmarks.row_files import Row

__all__ = ["TABLES", "cpu"]

_DOCUMENTED = "documented_before_rows.jsonl"
_ACCURACY = "h200_2026-11-27_accuracy.jsonl"
_TRAIN = "zen4_2026-11-27_train.jsonl"
_DISTILLED = "zen4_2026-11-27_distilled.jsonl"
_LEVERS = "zen4_2026-11-27_vit_levers.jsonl"


def _experiment(name: str) -> Callable[[Row], bool]:
    return having(experiment=name)


def cpu(line: Line) -> str:
    """The CPU of a line, whose generation some rows say and otherwise the name of the file does."""
    name = str(first(line, "machine__cpu"))
    return "Zen 4" if line[0]["file"].startswith("zen4") else name.removeprefix("AMD EPYC, ")


def _preset(line: Line) -> str:
    """The preset of a line, which rows of runs on a GPU say in their command alone."""
    if preset := first(line, "preset"):
        return f"`{preset}`"
    words = line[0]["command"].split()
    return f"`{words[words.index('--preset') + 1]}`"


def _hardware(line: Line) -> str:
    machine = line[0]["machine"]
    return machine["gpu"]["name"] if machine["gpu"] else f"two cores of {cpu(line)}, {line[0]['precision']}"


def _range(name: str, written: Callable[[float], str]) -> Column:
    """The lowest and the highest value in a line."""

    def cell(line: Line) -> str:
        values = sorted(row[name] for row in line if row.get(name) is not None)
        ends = dict.fromkeys(written(each) for each in (values[:1] + values[-1:]))
        return " to ".join(ends)

    return cell


def _noted_accuracy(line: Line) -> str:
    """Training accuracy, with the digits that were noted."""
    found = first(line, "train_accuracy")
    return f"{100 * found:g} %" if isinstance(found, float) else ""


def _accuracy(top1: float) -> str:
    return f"{top1:.2%}".replace("%", " %")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _mean(name: str, digits: int) -> Column:
    """The mean of a fraction over the rows of a line that have it."""
    return calculated(lambda line: 100 * _mean_of(line, name), digits, unit=" %")


def _mean_of(rows: Line, name: str) -> float:
    values = [float(row[name]) for row in rows if row[name] is not None]
    if not values:
        raise LookupError(name)
    return statistics.mean(values)


def _gain_of_teacher(line: Line) -> float:
    return 100 * (figure(line, "top1", is_taught=True) - figure(line, "top1", is_taught=False))


def _lever_columns(rows: Line) -> dict[str, Column]:
    """Trials of levers next to the mean of those without any; some were stopped before they had a top-1."""
    baseline = [row for row in rows if row["lever"] == "none"]

    def points(name: str) -> Column:
        def cell(line: Line) -> str:
            values = [row[name] for row in line]
            if line[0]["lever"] == "none" or None in values:
                return ""
            return f"{100 * (_mean_of(line, name) - _mean_of(baseline, name)):+.1f}"

        return cell

    early = "train_accuracy_steps_206_to_287"
    return {
        "lever": text("lever"),
        "options": code("options"),
        "change to the code": text("change"),
        "cost": number("cost", 2),
        "seeds": lambda line: str(len(line)),
        "training accuracy, steps 206 to 287": _mean(early, 1),
        "points": points(early),
        "training accuracy, last epoch": _mean("train_accuracy", 1),
        "top-1": _mean("top1", 1),
        "points of top-1": points("top1"),
        "verdict": text("verdict"),
    }


_TRAINING = _range("train_seconds", _duration)

TABLES = {
    "cifar10-runs": Table(
        files=(_DOCUMENTED,),
        where=_experiment("cifar10"),
        columns={
            "preset": _preset,
            "epochs": text("epochs"),
            "CPU": cpu,
            "precision": text("precision"),
            "seed": text("seed"),
            "top-1, averaged": percent("top1_averaged", 2),
            "top-1, one view": percent("top1", 2),
            "training": _TRAINING,
            "images/s": number("images_per_second"),
            "waiting for data": percent("data_wait_fraction", 2),
        },
    ),
    "readme-runs": Table(
        files=(_DOCUMENTED, _ACCURACY),
        where=lambda row: row.get("experiment") == "cifar10" or (row["file"] == _ACCURACY and row.get("epochs") == 12),
        line=lambda row: (_preset([row]), row["epochs"], _hardware([row])),
        columns={
            "CIFAR-10": _preset,
            "epochs": text("epochs"),
            "seeds": lambda line: str(len(line)),
            "top-1, averaged over views": _range("top1_averaged", _accuracy),
            "top-1, one view": _range("top1", _accuracy),
            "training": _TRAINING,
            "on": _hardware,
        },
    ),
    "quick-optimizers": Table(
        files=(_DOCUMENTED,),
        where=_experiment("quick-optimizers"),
        columns={
            "optimizer, batch": text("optimizer"),
            "epochs at 16 px, 20 px, 32 px": text("epochs_at_16_20_32_px"),
            "cost": number("cost_in_epochs_at_32_px", 2),
            "top-1": percent("top1", 2),
        },
    ),
    "quick-epochs": Table(
        files=(_DOCUMENTED,),
        where=_experiment("quick-epochs"),
        line=by("epochs"),
        columns={
            "`--epochs`": text("epochs"),
            "epochs at 16 px, 20 px, 32 px": text("epochs_at_16_20_32_px"),
            "cost with Muon's own work": number("cost_in_epochs_at_32_px", 2),
            **{f"top-1, seed {seed}": percent("top1", 2, seed=seed) for seed in range(3)},
        },
    ),
    "vit-start": Table(
        files=(_DOCUMENTED,),
        where=_experiment("vit-start"),
        columns={
            "start": text("start"),
            "options": code("options"),
            "training accuracy, steps 181 to 200": percent("train_accuracy"),
            "top-1": percent("top1"),
        },
    ),
    "vit-rate": Table(
        files=(_DOCUMENTED,),
        where=_experiment("vit-rate"),
        columns={
            "change": text("change"),
            "options": code("options"),
            "steps": text("steps"),
            "training accuracy": percent("train_accuracy"),
        },
    ),
    "vit-step": Table(
        files=(_DOCUMENTED,),
        where=_experiment("vit-step"),
        line=by("change"),
        columns=lambda rows: {
            "images/s, median of five": text("change"),
            **{str(part): number("images_per_second", part=part) for part in distinct(rows, "part")},
        },
    ),
    "muon-iterations": Table(
        files=(_DOCUMENTED,),
        where=_experiment("muon-iterations"),
        line=by(),
        columns=lambda rows: {
            "iterations of Muon (4 are taken)": lambda _: "time",
            **{
                str(number_of): number("step_milliseconds", unit=" ms", iterations=number_of)
                for number_of in distinct(rows, "iterations")
            },
        },
    ),
    "distill-sizes": Table(
        files=(_DISTILLED,),
        where=_experiment("distill-sizes"),
        line=by("image_side"),
        columns={
            "images of": number("image_side", unit=" px"),
            **{
                f"{how}{moved}": percent("top1", 2, fed_at=fed_at, shift=shift)
                for fed_at, how in (("their own size", "as they are"), ("32 px", "upsampled to 32 px"))
                for shift, moved in ((0, ""), (3, ", shifted by up to 3 px"))
            },
        },
    ),
    "distill-trials": Table(
        files=(_DISTILLED,),
        where=_experiment("distill-trials"),
        columns={
            "teacher": text("teacher"),
            "options": code("options"),
            "training accuracy, last epoch": percent("train_accuracy"),
            "top-1": percent("top1"),
        },
    ),
    "distill-shares": Table(
        files=(_DISTILLED,),
        where=_experiment("distill-shares"),
        line=by("num_train_images", "seed"),
        columns={
            "images": number("num_train_images"),
            "epochs": text("epochs"),
            "seed": number("seed"),
            "without a teacher": percent("top1", 2, is_taught=False),
            "with": percent("top1", 2, is_taught=True),
            "gain": calculated(_gain_of_teacher, 1, unit=" points"),
            "training accuracy, last epoch, without": percent("train_accuracy", is_taught=False),
            "with it": percent("train_accuracy", is_taught=True),
            "the teacher": percent("teacher_top1", 2),
            "minutes without": number("train_seconds", 1, scale=1 / 60, is_taught=False),
            "minutes with": number("train_seconds", 1, scale=1 / 60, is_taught=True),
            "minutes of the teacher": number("teacher_seconds", 1, scale=1 / 60),
        },
    ),
    "vit-levers": Table(
        files=(_LEVERS,),
        where=_experiment("vit-levers"),
        line=by("lever", "options", "change"),
        columns=_lever_columns,
    ),
    "vit-run": Table(
        files=(_DOCUMENTED,),
        where=_experiment("vit-run"),
        columns={
            "of epochs": text("epochs"),
            "epoch": text("epoch"),
            "training": _TRAINING,
            "resolution, patches dropped": text("phases"),
            "training accuracy": _noted_accuracy,
            "top-1": percent("top1", 2),
            "averaged over flips": percent("top1_averaged", 2),
        },
    ),
    "vit-parts": Table(
        files=(_DOCUMENTED,),
        where=_experiment("vit-parts"),
        line=by("images_of_a_part"),
        columns=lambda rows: {
            "parts of": text("images_of_a_part"),
            **{str(part): percent("ratio_to_matmuls", part=part) for part in distinct(rows, "part")},
        },
    ),
    "train-split": Table(
        files=(_TRAIN,),
        where=lambda row: row["benchmark"] == "train" and row["contender"] != "verdict",
        columns={
            "preset": _preset,
            "contender": code("contender"),
            "images/s": rate(),
            "share of the matmuls' rate": percent("ratio_to_matmuls"),
            "CPU µs an image": number("cpu_seconds_per_image", scale=1e6),
        },
    ),
    "train-verdict": Table(
        files=(_TRAIN,),
        where=having(benchmark="train", contender="verdict"),
        columns={
            "preset": _preset,
            "bottleneck": text("bottleneck"),
            "loader alone, times the run": number("loader_headroom", 2),
            "step alone, times the run": number("step_headroom", 2),
            "cores that the loader needs for the step": number("loader_cores", 3),
            "share of the matmuls' rate": percent("share_of_matmul_ceiling"),
        },
    ),
    "train-sweep": Table(
        files=(_TRAIN,),
        where=having(benchmark="train-sweep"),
        columns={
            "preset": _preset,
            "precision": text("precision"),
            "compile": text("compile"),
            "channels last": lambda line: "yes" if line[0]["channels_last"] else "no",
            "batch": number("batch_size"),
            "images/s": rate(),
            "": lambda line: line[0]["problem"] or ("best" if line[0]["is_best"] else ""),
        },
    ),
    "train-shares": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="small-vit-step", contender="train"),
        columns={
            "CPU": cpu,
            "precision": text("precision"),
            "images/s": rate(),
            "share of the matmuls' rate": percent("ratio_to_matmuls"),
            "times timm's `train.py`": number("ratio_to_timm", 1),
        },
    ),
}
