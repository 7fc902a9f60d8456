"""The reference experiments: train what is not trained yet, measure inference, and make the page, in pieces."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import say
from benchmarks.options import split_names
from benchmarks.reference import cost, data_sets
from benchmarks.reference.data_sets import Sources
from benchmarks.reference.experiments import SCALES, Experiment, Scale
from benchmarks.reference.runs import PlannedRun, is_done, plan_run
from benchmarks.reference.session import Session
from benchmarks.rows import print_columns
from fastvit_train.provenance import provenance
from loaders.atomic_file import clear_os_errors, make_folder
from loaders.errors import FastvitError

__all__ = ["BenchReference", "bench_reference"]

_INFERENCE = "inference"
_OPTIONAL_DATA = {"gpu10": "tiny-imagenet"}
"""Without it, a scale leaves out what needs it, and what that is compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReference:
    """Train the reference experiments and make a page of what they show.

    The same command continues where it was stopped, and does not repeat what is done.
    """

    scale: Scale
    """full, the whole job; gpu10, what one H100 shows in 10 minutes; cpu, the same in small, 2.5 hours on two cores
    that multiply in bf16."""
    out: Path
    """Folder of the run folders, the data that is made, the rows (rows.jsonl) and the page (report.html, report.md,
    figures)."""
    cifar10: Path = Path("data")
    """Folder with cifar10_train.beton and cifar10_test.beton."""
    tiny_imagenet: Path | None = None
    """Tiny-ImageNet, or some of its classes: a tar archive or a folder with train and val. For cpu, and if you like
    for gpu10."""
    imagenet_train: Path | None = None
    """Training images of ImageNet, or two thirds of each class, as --data.train of fastvit-train. For full."""
    imagenet_val: Path | None = None
    """Validation images of ImageNet. For full."""
    experiments: tuple[str, ...] | None = None
    """Some of the scale's experiments, separated by spaces or commas, or inference, which measures the models of those
    that are done; all, and inference after them, when not given."""
    minutes: float | None = None
    """No experiment begins after so many minutes, and the one that runs then stops with a checkpoint."""
    gpu: str | None = None
    """Whose hours are printed for gpu10 and full, as torch.cuda.get_device_name has it; this machine's when not given,
    or an H100's where it has none."""
    seed: int = 0
    """Of all experiments."""
    dry_run: bool = False
    """Check what is needed, say how long each experiment will take, and end."""

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise FastvitError(f"minutes must be positive, got {self.minutes:g}")
        if not 0 <= self.seed < 2**63:
            raise FastvitError(f"seed must lie in [0, 2^63), got {self.seed}")
        if self.gpu is not None and self.scale == "cpu":
            raise FastvitError(f"gpu is for the scales gpu10 and full, got {self.gpu} with --scale cpu")
        _ = self.chosen

    @property
    def chosen(self) -> tuple[Experiment, ...]:
        """The experiments, in the order of the scale."""
        known = SCALES[self.scale]
        if self.experiments is not None:
            return tuple(each for each in known if each.name in self._names(self.experiments))
        if self.tiny_imagenet is None and (data := _OPTIONAL_DATA.get(self.scale)):
            without = {each.name for each in known if each.data == data or each.part == "pretraining"}
            return tuple(each for each in known if not {each.name, each.starts_from} & without)
        return known

    @property
    def with_inference(self) -> bool:
        """Whether inference is measured in the end."""
        return self.experiments is None or _INFERENCE in self._names(self.experiments)

    def _names(self, groups: Sequence[str]) -> list[str]:
        return split_names(groups, [*(each.name for each in SCALES[self.scale]), _INFERENCE], kind="experiment")

    @property
    def sources(self) -> Sources:
        """Where the data is, and where it is made."""
        return Sources(
            cifar10=self.cifar10,
            tiny_imagenet=self.tiny_imagenet,
            imagenet_train=self.imagenet_train,
            imagenet_val=self.imagenet_val,
            folder=self.out / "data",
        )


def bench_reference(config: BenchReference) -> int:
    """Train, measure and report; returns the exit code.

    Raises:
        FastvitError: Something is missing, which shows before anything starts, or an experiment failed.
        KeyboardInterrupt: Ctrl-C; the message says how to continue.
    """
    started = time.monotonic()
    runs = _planned(config)
    if runs:  # else inference alone
        _print_costs(config, runs)
    if config.dry_run:
        return 0
    with clear_os_errors(config.out):
        make_folder(config.out)
    for name in dict.fromkeys(run.experiment.data for run in runs if run.state != "done"):
        data_sets.prepare(name, config.sources)
    session = Session(
        scale=config.scale,
        out=config.out,
        deadline=float("inf") if config.minutes is None else started + 60 * config.minutes,
    )
    again = f"continue with: {provenance()['command']}"
    try:
        stop = session.work(runs, with_inference=config.with_inference)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {again}") from None
    if stop is not None:
        say(f"\n{stop.reason}; {again}")
        return stop.exit_code
    return 0


def _planned(config: BenchReference) -> list[PlannedRun]:
    """The runs, once all that they need is there.

    Raises:
        FastvitError: Something is missing; the message names all of it.
    """
    chosen = config.chosen
    if config.experiments is None and (num_left_out := len(SCALES[config.scale]) - len(chosen)):
        say(f"{num_left_out} experiments are left out, as --tiny-imagenet is not given")
    names = list(dict.fromkeys(each.data for each in chosen))
    if problems := [*_problems(config), *data_sets.problems(names, config.sources)]:
        raise FastvitError("\n".join(problems))
    described = {name: data_sets.describe(name, config.sources) for name in names}
    return [plan_run(each, described[each.data], out=config.out, seed=config.seed) for each in chosen]


def _problems(config: BenchReference) -> Iterator[str]:
    """What keeps the experiments from being run, apart from data."""
    if config.scale != "cpu" and not config.dry_run and not torch.cuda.is_available():
        yield f"--scale {config.scale} needs a CUDA device, and torch sees none; --scale cpu runs without one"
    names = {each.name for each in config.chosen}
    for each in config.chosen:
        start = each.starts_from
        if start is not None and start not in names and not is_done(config.out / start):
            yield f"{each.name} starts from {start}, which is not done; name it in --experiments too, or run it first"


def _print_costs(config: BenchReference, runs: Sequence[PlannedRun]) -> None:
    """Print what there is to do, and how long that will take."""
    left = [run for run in runs if run.state != "done"]
    whole = cost.estimated_seconds(
        {run.experiment.name: run.config for run in left},
        {run.experiment.name: (run.data_set.num_train_images, run.data_set.num_val_images) for run in left},
        scale=config.scale,
        gpu=config.gpu,
    )
    seconds = {run.experiment.name: _rest(whole[run.experiment.name], run) for run in left}
    columns = {
        "experiment": [run.experiment.name for run in runs],
        "what": [run.experiment.title for run in runs],
        "images": [f"{run.data_set.num_train_images:,}" for run in runs],
        "epochs": [f"{run.config.epochs:g}" for run in runs],
        "done": [f"{run.progress:.0%}" if run.progress else "" for run in runs],
        "time left": [_duration(seconds.get(run.experiment.name)) for run in runs],
    }
    total = _duration(sum(value or 0 for value in seconds.values())) or "nothing to train"
    unknown = ", without those whose time is not known" if None in seconds.values() else ""
    source = f", by {cost.estimate_source(config.scale, gpu=config.gpu)}" if left else ""
    caption = f"{len(left)} of {len(runs)} experiments are left: {total}{unknown}{source}"
    print_columns(f"the reference experiments, scale {config.scale}", columns, caption=caption)


def _rest(seconds: float | None, run: PlannedRun) -> float | None:
    return None if seconds is None else seconds * (1 - run.progress)


def _duration(seconds: float | None) -> str:
    """Nothing where it is not known."""
    if not seconds:
        return ""
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
