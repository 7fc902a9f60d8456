"""The report of run folders: one run, or several next to each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvit_train.metrics import flop_rate, read_metrics
from fastvit_train.page.content import (
    Block,
    Cards,
    Cell,
    Facts,
    Folded,
    Notes,
    Page,
    Paragraph,
    Section,
    Table,
    duration,
    number,
    plain_name,
)
from fastvit_train.page.figures import Lines, Panel, Series, StackedBars
from fastvit_train.page.html import to_html
from fastvit_train.run_folder import CONFIG, METRICS, REPORT, RESULT
from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError

__all__ = ["RunRecord", "curves", "environment_facts", "is_run_folder", "read_run", "run_sections", "write_run_page"]

Values = Mapping[str, Any]

_OF_EACH_RUN = {"out"}  # options in which runs always differ
_MANY_OPTIONS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run folder tells."""

    name: str
    metrics: Sequence[Values]
    """Lines of metrics.jsonl."""
    result: Values
    """Of result.json; empty before the run has ended."""
    config: Values
    """Of config.json; empty where there is none."""

    def lines(self, kind: str) -> list[Values]:
        """The lines of kind `train` or `eval`."""
        return [line for line in self.metrics if line["kind"] == kind]

    def figure(self, name: str) -> Any:  # noqa: ANN401  # whatever JSON holds
        """A figure of the result, or the newest that the metrics have."""
        if name in self.result:
            return self.result[name]
        return next((line[name] for line in reversed(self.metrics) if line.get(name) is not None), None)


def is_run_folder(path: Path) -> bool:
    """Whether a run has written into the folder."""
    return (path / METRICS).is_file()


def read_run(folder: Path, *, name: str | None = None) -> RunRecord:
    """Read what the report needs.

    Args:
        folder: The run folder; the run need not have ended.
        name: What the report calls it; the folder's name when not given.

    Raises:
        FastvitError: A file of it cannot be read.
    """
    try:
        metrics = read_metrics(folder / METRICS)
        result, config = (_read_json(folder / file) for file in (RESULT, CONFIG))
        if not all(isinstance(line, dict) and {"kind", "step"} <= line.keys() for line in metrics):
            raise ValueError(f"{METRICS} has lines without kind and step")
    except (OSError, ValueError) as error:
        raise FastvitError(f"{folder} is no run folder that can be read: {error}") from error
    return RunRecord(name=plain_name(name or folder.resolve().name), metrics=metrics, result=result, config=config)


def _read_json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text()) if path.exists() else {}
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return values


def write_run_page(folder: Path) -> Path:
    """Write `report.html` of a run into its folder; returns its path.

    Examples:
        >>> from pathlib import Path
        >>> from fastvit_train.page.runs import write_run_page
        >>> write_run_page(Path("runs/cifar10-quick"))  # doctest: +SKIP
        PosixPath('runs/cifar10-quick/report.html')
    """
    run = read_run(folder)
    page = Page(title=run.name, lead="What the run reached, and where its time went.", sections=run_sections([run]))
    with atomic_file(folder / REPORT) as file:
        file.write(to_html(page))
    return folder / REPORT


def run_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """The sections of one run, or those that compare several."""
    found = [_one(runs[0]) if len(runs) == 1 else _comparison(runs)]
    if any(run.metrics for run in runs):
        found.append(Section("Accuracy, loss and speed", list(_curves_blocks(runs))))
    if times := _times(runs):
        found.append(Section("Where the time went", times))
    found.append(Section("How it was run", list(_setting(runs))))
    return found


def _one(run: RunRecord) -> Section:
    top1, averaged, speed = (run.figure(name) for name in ("top1", "top1_averaged", "images_per_second"))
    wait, seconds = run.figure("data_wait_fraction"), run.figure("train_seconds")
    best = run.result.get("best_top1")
    is_best = f"best {100 * best:.2f} % at step {run.result['best_step']:,}" if best not in (None, top1) else ""
    utilization = run.figure("model_flops_utilization")
    work = run.figure("model_flops_per_second")
    share = f", {100 * utilization:.1f} % of the hardware's" if utilization is not None else ""
    figures = [
        ("Top-1 accuracy", None if top1 is None else f"{100 * top1:.2f} %", is_best),
        ("Averaged over views", None if averaged is None else f"{100 * averaged:.2f} %", ""),
        ("Images/s", None if speed is None else f"{speed:,.0f}", "" if work is None else f"{flop_rate(work)}{share}"),
        ("Training time", None if seconds is None else duration(seconds), ""),
        ("Waiting for data", None if wait is None else f"{100 * wait:.2f} %", "after the first steps"),
    ]
    blocks: list[Block] = [Cards([(label, text, remark) for label, text, remark in figures if text is not None])]
    if not run.result:
        step = run.metrics[-1]["step"] if run.metrics else 0
        blocks.insert(0, Notes([f"Not finished: the last figures are those of step {step:,}."]))
    return Section("Result", blocks)


def _comparison(runs: Sequence[RunRecord]) -> Section:
    accuracies = [run.figure("top1") or -1.0 for run in runs]
    best = accuracies.index(max(accuracies))
    lines = [
        [
            run.name,
            number(run.figure("top1"), 2, scale=100),
            number(run.figure("top1_averaged"), 2, scale=100),
            number(run.result.get("best_top1"), 2, scale=100),
            number(run.figure("images_per_second")),
            number(run.figure("data_wait_fraction"), 2, scale=100),
            number(run.figure("train_seconds"), 1, scale=1 / 60),
            number(run.metrics[-1]["step"] if run.metrics else None),
            number(run.result.get("num_parameters"), 1, scale=1e-6),
            "" if run.result else "not finished",
        ]
        for run in runs
    ]
    headings = ["run", "top-1 %", "averaged %", "best %", "images/s", "waiting for data %"]
    headings += ["training min", "steps", "M parameters", "state"]
    blocks: list[Block] = []
    if accuracies[best] >= 0:
        blocks.append(Paragraph(f"{runs[best].name} has the highest accuracy: {100 * accuracies[best]:.2f} %."))
    return Section("Runs", [*blocks, _without_empty(Table(headings, lines, marked=(best,)))])


def _without_empty(table: Table) -> Table:
    """The table without the columns that say nothing."""
    kept = [column for column in range(len(table.headings)) if any(line[column] for line in table.lines)]
    lines = [[line[column] for column in kept] for line in table.lines]
    return Table([table.headings[column] for column in kept], lines, table.marked)


def curves(runs: Sequence[RunRecord]) -> Lines:
    """Accuracy and loss of runs over their steps: of one run, those of training too."""
    panels = [
        Panel("Accuracy (%)", "step", _series(runs, evaluated="top1", trained="accuracy", scale=100)),
        Panel("Loss", "step", _series(runs, evaluated="loss", trained="loss")),
    ]
    caption = "Accuracy and loss over the steps" + (": training and evaluation" if len(runs) == 1 else ", evaluation")
    return Lines(name="curves", caption=caption, panels=panels)


def _series(runs: Sequence[RunRecord], *, evaluated: str, trained: str, scale: float = 1.0) -> list[Series]:
    if len(runs) > 1:
        return [_line(run.name, run.lines("eval"), evaluated, scale=scale, has_points=True) for run in runs]
    return [
        _line("training", runs[0].lines("train"), trained, scale=scale, color="muted"),
        _line("evaluation", runs[0].lines("eval"), evaluated, scale=scale, has_points=True, color="series-1"),
    ]


def _line(
    label: str,
    lines: Sequence[Values],
    name: str,
    *,
    scale: float = 1.0,
    x: str = "step",
    has_points: bool = False,
    color: str | None = None,
) -> Series:
    values = [line.get(name) for line in lines]
    ys = [None if value is None else scale * value for value in values]
    return Series(label, [line[x] for line in lines], ys, has_points=has_points, color=color)


def _curves_blocks(runs: Sequence[RunRecord]) -> Iterator[Block]:
    yield curves(runs)
    panels = [
        Panel("Images/s", "step", [_line(run.name, run.lines("train"), "images_per_second") for run in runs]),
        Panel("Learning rate", "step", [_line(run.name, run.lines("train"), "lr") for run in runs]),
    ]
    panels = [panel._replace(from_zero=True) for panel in panels]
    caption = "Speed and learning rate, as the log lines have them"
    if len(runs) > 1:
        panels.insert(0, Panel("Accuracy (%)", "training time (min)", [_over_time(run) for run in runs]))
        caption = "Accuracy over the time in training; speed and learning rate, as the log lines have them"
    yield Lines(name="speed", caption=caption, panels=panels)
    if lines := [[run.name, *_evaluation(line)] for run in runs for line in run.lines("eval")]:
        headings = ["run", "step", "epoch", "training min", "top-1 %", "averaged %", "loss"]
        start = 1 if len(runs) == 1 else 0
        table = Table(headings[start:], [line[start:] for line in lines])
        yield Folded("The evaluations", [_without_empty(table)])


def _over_time(run: RunRecord) -> Series:
    lines = [{**line, "minutes": line["train_seconds"] / 60} for line in run.lines("eval") if line.get("train_seconds")]
    return _line(run.name, lines, "top1", scale=100, x="minutes", has_points=True)


def _evaluation(line: Values) -> list[Cell]:
    return [
        number(line["step"]),
        number(line.get("epoch")),
        number(line.get("train_seconds"), 2, scale=1 / 60),
        number(line.get("top1"), 2, scale=100),
        number(line.get("top1_averaged"), 2, scale=100),
        number(line.get("loss"), 4),
    ]


def _times(runs: Sequence[RunRecord]) -> list[Block]:
    """Seconds of each part of a run, as a figure and as a table."""
    known = [run for run in runs if run.figure("train_seconds") is not None]
    if not known:
        return []
    parts = {name: [_parts(run)[name] for run in known] for name in _parts(known[0])}
    plot = StackedBars(
        name="time",
        caption="Time of the run, in seconds",
        labels=[run.name for run in known],
        parts=parts,
        unit=" s",
    )
    totals = [sum(values) or 1.0 for values in zip(*parts.values(), strict=True)]
    lines = [
        [run.name, name, number(parts[name][place], 1), number(parts[name][place] / totals[place], 1, scale=100)]
        for place, run in enumerate(known)
        for name in parts
    ]
    start = 1 if len(known) == 1 else 0
    table = Table(["run", "part", "s", "% of the time"][start:], [line[start:] for line in lines])
    return [plot, table if len(known) == 1 else Folded("As numbers", [table])]


def _parts(run: RunRecord) -> dict[str, float]:
    training, startup = (run.figure(name) or 0.0 for name in ("train_seconds", "startup_seconds"))
    steady = max(0.0, training - startup)
    waiting = steady * (run.figure("data_wait_fraction") or 0.0)
    return {
        "training steps": steady - waiting,
        "waiting for data": waiting,
        "first steps (compilation)": startup,
        "evaluation": run.result.get("eval_seconds") or 0.0,
    }


def _setting(runs: Sequence[RunRecord]) -> Iterator[Block]:
    flat = [dict(_flattened(run.config)) for run in runs]
    if len(runs) > 1:
        yield from _differences(runs, flat)
    for run, options in zip(runs, flat, strict=True):
        facts = [("device", _devices(run.result)), ("teacher", _teacher(run.result)), *environment_facts(run.result)]
        blocks: list[Block] = [Facts(facts)]
        if options:
            table = Table(["option", "value"], [[name, text] for name, text in options.items()])
            blocks.append(Folded(f"All {len(options)} options", [table]))
        if len(runs) == 1:
            yield from blocks
        else:
            yield Folded(run.name, blocks)


def _differences(runs: Sequence[RunRecord], options: Sequence[Mapping[str, str]]) -> Iterator[Block]:
    names = list(dict.fromkeys(name for each in options for name in each if name not in _OF_EACH_RUN))
    lines = [[name, *(each.get(name, "") for each in options)] for name in names]
    different = [line for line in lines if len(set(line[1:])) > 1]
    if not different:
        yield Paragraph("The runs have the same options.")
        return
    table = Table(["option", *(run.name for run in runs)], different)
    if len(different) > _MANY_OPTIONS:
        yield Folded(f"{len(different)} options that are not the same in all runs", [table])
    else:
        yield Paragraph("Options that are not the same in all runs:")
        yield table


def _devices(result: Values) -> str:
    return f"{result['world_size']} × {result['device']}" if {"world_size", "device"} <= result.keys() else ""


def _teacher(result: Values) -> str:
    if "teacher" not in result:
        return ""
    top1, seconds = result["teacher_top1"], result["teacher_seconds"]
    took = "" if seconds is None else f", trained in {duration(seconds)} before"
    return f"{result['teacher']}{'' if top1 is None else f', {100 * top1:.2f} %'}{took}"


def _flattened(values: Values, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options by their dotted names, with their values as text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:.12g}"
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def environment_facts(origin: Values) -> list[tuple[str, str]]:
    """How and where something was run, as a result or a row of a benchmark says it."""
    machine, versions = origin.get("machine") or {}, origin.get("versions") or {}
    gpu = machine.get("gpu")
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine.get("memory_bytes") else ""
    card = (
        [str(gpu[key]) if key == "name" else f"{label} {gpu[key]}" for key, label in _CARD.items() if gpu.get(key)]
        if gpu
        else []
    )
    commit = origin.get("commit") or ""
    return [
        ("command", origin.get("command") or ""),
        ("date", (origin.get("date") or "").replace("T", " ")),
        ("CPU", f"{machine['cpu']}, {machine.get('cores', '?')} cores{memory}" if "cpu" in machine else ""),
        ("GPU", ", ".join(card)),
        ("commit", f"{commit}{' and changes to its files' if origin.get('dirty') else ''}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
    ]


_CARD = {"name": "", "driver": "driver", "cuda": "CUDA", "cudnn": "cuDNN"}
