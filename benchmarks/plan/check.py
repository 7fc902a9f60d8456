"""Plans against whole runs of this machine: `python -m benchmarks.plan.check --cifar10 FOLDER --photos FILE.beton`.

Each case is planned with `fastvit-bench plan --measure`, then trained with `fastvit-train`; both are commands of their
own, and what is compared is the time from the start of the second to its end.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from benchmarks.harness import say
from benchmarks.options import split_names
from benchmarks.row_files import Row, append_rows, read_rows
from benchmarks.rows import print_columns
from fastvit_train.provenance import provenance
from loaders.command import run_command
from loaders.errors import FastvitError

__all__ = ["CASES", "CheckPlan", "check_plan"]

_PROG = "python -m benchmarks.plan.check"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A run of half a minute to two on two CPU cores."""

    preset: str
    epochs: float
    train: str
    """A file of CIFAR-10's folder; the photos when empty."""
    val: str = ""
    arch: str | None = None
    batch_size: int | None = None

    def options(self, config: "CheckPlan") -> tuple[list[str], Path, Path]:
        """What both commands are given, and the two data sets."""
        options = ["--preset", self.preset, "--epochs", f"{self.epochs:g}"]
        options += [] if self.arch is None else ["--arch", self.arch]
        options += [] if self.batch_size is None else ["--batch-size", str(self.batch_size)]
        train, val = (config.cifar10 / name if name else config.photos for name in (self.train, self.val))
        return options, train, val


_TRAIN, _TEST = "cifar10_train.beton", "cifar10_test.beton"

CASES = {
    "phases": Case(preset="cifar10-quick", epochs=4.5, train=_TEST, val=_TEST),
    "views": Case(preset="cifar10-resnet-fast", epochs=1, train=_TEST, val=_TEST),
    "jpegs": Case(preset="imagenet-resnet50-ffcv", arch="timm/test_resnet", epochs=2, batch_size=250, train=""),
}
"""Small images first; six views of each validation image; JPEGs, whose loader takes time from the steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckPlan:
    """Hold `fastvit-bench plan --measure` against whole runs on this machine, which should do nothing else."""

    cifar10: Path = Path("data")
    """Folder with cifar10_train.beton and cifar10_test.beton."""
    photos: Path = Path("photos.beton")
    """JPEGs: some thousand, for training and for evaluation."""
    cases: tuple[str, ...] = field(default_factory=lambda: tuple(CASES))
    """Which, separated by spaces or commas: phases, views, jpegs."""
    json: Path | None = None
    """Append each plan's row, with measured_hours and miss, to this file."""

    @property
    def names(self) -> list[str]:
        """The cases, in the order given."""
        return split_names(self.cases, CASES, kind="case")


def check_plan(config: CheckPlan) -> list[Row]:
    """Plan and train each case, print a table and return the rows.

    Raises:
        FastvitError: A command failed.
    """
    rows = []
    for name in config.names:
        rows.append(_checked(name, config))
        if config.json is not None:
            append_rows(config.json, rows[-1:])
    columns = {
        "case": config.names,
        "preset": [f"{row['preset']}, {row['epochs']:g} epochs" for row in rows],
        "planned, s": [f"{3600 * row['hours']:.1f}" for row in rows],
        "measured, s": [f"{3600 * row['measured_hours']:.1f}" for row in rows],
        "miss": [f"{row['miss']:+.1%}" for row in rows],
    }
    print_columns("plans and runs", columns, caption=rows[0]["assumptions"]["source"])
    return rows


def _checked(name: str, config: CheckPlan) -> Row:
    """A plan's row, with what the run took."""
    options, train, val = CASES[name].options(config)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.jsonl"
        say(f"{name}: planning")
        planning = ["plan", *options, "--data", str(train), "--val", str(val), "--measure", "--gpus", "1"]
        _run("benchmarks.cli", *planning, "--json", str(out))
        (row,) = read_rows(out)
        say(f"{name}: training, {3600 * row['hours']:.0f} s are planned")
        data = ["--data.train", str(train), "--data.val", str(val), "--out", str(Path(folder) / "run")]
        start = time.perf_counter()
        _run("fastvit_train.cli", *options, *data)
        hours = (time.perf_counter() - start) / 3600
    command = provenance()["command"]  # in place of the plan's own, whose files are gone
    return row | {"case": name, "measured_hours": hours, "miss": row["hours"] / hours - 1, "command": command}


def _run(module: str, *arguments: str) -> None:
    code = f"import sys; from {module} import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise FastvitError(f"{module} {' '.join(arguments)} failed: {done.stdout[-2000:]}")


def _check() -> None:
    check_plan(tyro.cli(CheckPlan, prog=_PROG))


if __name__ == "__main__":
    sys.exit(run_command(_check, name=_PROG, interrupted=f"{_PROG}: interrupted"))
