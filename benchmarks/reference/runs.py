"""Runs of `fastvit-train`, each in a process of its own: what is done already, what there is to start, how it ended."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple

from benchmarks.reference.data_sets import DataSet
from benchmarks.reference.experiments import Experiment
from fastvit_train.cli import parse
from fastvit_train.config import Config
from fastvit_train.config_json import read_config, to_dict
from fastvit_train.metrics import read_metrics
from fastvit_train.resume import changes
from fastvit_train.run_folder import BEST, CONFIG, METRICS, RESULT
from fastvit_train.schedule import total_steps
from fastvit_train.signals import EXIT_STOPPED, StopSignal
from loaders.atomic_file import clear_os_errors, make_folder
from loaders.errors import FastvitError

__all__ = ["LOG", "PROGRAMS", "Ending", "PlannedRun", "State", "is_done", "plan_run", "run_program"]

State = Literal["done", "begun", "new"]

LOG = "log.txt"
"""What a run prints, in its folder."""

PROGRAMS = {"fastvit-train": "fastvit_train.cli", "fastvit-bench": "benchmarks.cli"}
"""The commands that are started, with the modules of their `main`."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """An experiment, with what is there of it."""

    experiment: Experiment
    data_set: DataSet
    folder: Path
    arguments: tuple[str, ...]
    """Of `fastvit-train`."""
    config: Config
    """What it makes of them."""

    @property
    def command(self) -> str:
        """To be typed."""
        return shlex.join(["fastvit-train", *self.arguments])

    @property
    def state(self) -> State:
        """What is there of the run."""
        return "done" if is_done(self.folder) else "begun" if (self.folder / CONFIG).exists() else "new"

    @property
    def progress(self) -> float:
        """Share of its steps that are made, a teacher's not counted."""
        if self.state == "done":
            return 1.0
        steps = [line["step"] for line in read_metrics(self.folder / METRICS)]
        num_steps = total_steps(self.config.epochs, self.data_set.num_train_images // self.config.batch_size)
        return max(steps, default=0) / num_steps


def is_done(folder: Path) -> bool:
    """Whether the run in a folder has ended."""
    return (folder / RESULT).exists()


def plan_run(experiment: Experiment, data_set: DataSet, *, out: Path, seed: int) -> PlannedRun:
    """The run of an experiment.

    Args:
        experiment: What is trained.
        data_set: On what.
        out: The folder of all run folders.
        seed: Of the run.

    Raises:
        FastvitError: Its folder has a run with other options.
    """
    folder = out / experiment.name
    start = [] if experiment.starts_from is None else ["--init-from", str(out / experiment.starts_from / BEST)]
    data = ["--data.train", str(data_set.train), "--data.val", str(data_set.val)]
    arguments = [*experiment.options, "--seed", str(seed), *data, *start, "--out", str(folder), "--resume", "auto"]
    run = PlannedRun(
        experiment=experiment,
        data_set=data_set,
        folder=folder,
        arguments=tuple(arguments),
        config=parse(arguments),
    )
    if run.state != "new":
        _check_unchanged(run)
    return run


def _check_unchanged(run: PlannedRun) -> None:
    """Refuse to take a run with other options for this one, or to continue it with them."""
    before = to_dict(read_config(run.folder / CONFIG))
    if differing := changes(before, run.config):
        shown = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in differing.items())
        raise FastvitError(
            f"{run.folder} has a run with other options ({shown}); give those as before, name another --out, or remove "
            f"{run.folder}"
        )


class Ending(NamedTuple):
    """How a program ended."""

    code: int
    """Its exit code."""
    stopped_by: Literal["time", "signal"] | None
    """What ended it before it was done, so that it can be continued."""


def run_program(name: str, arguments: Sequence[str], *, log: Path, deadline: float) -> Ending:
    """Run one of `PROGRAMS`, with its output here and at the end of a log; signals are passed on to it.

    Args:
        name: The command.
        arguments: Its options.
        log: The file, whose folder is made.
        deadline: When it is asked to end, on the clock `time.monotonic`.

    Raises:
        KeyboardInterrupt: Ctrl-C came, and the program has ended.
        FastvitError: The log cannot be written.
    """
    # As a module of this Python: the commands of its environment need not be on the PATH.
    code = f"import sys; sys.argv[0] = {name!r}; from {PROGRAMS[name]} import main; sys.exit(main())"
    with clear_os_errors(log):
        make_folder(log.parent)
        with log.open("ab") as file:
            file.write(f"$ {shlex.join([name, *arguments])}\n".encode())
    with log.open("ab", buffering=0) as file, StopSignal(may_interrupt=lambda: True) as stop:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        output = threading.Thread(target=_copy, args=(process.stdout, file), daemon=True)
        output.start()
        try:
            return _wait(process, stop, deadline)
        except KeyboardInterrupt:
            _interrupt(process)
            raise
        finally:
            output.join(timeout=10)  # longer only where a process that it left behind holds its output


def _copy(output: IO[bytes], log: IO[bytes]) -> None:
    with output:
        for line in output:
            sys.stdout.write(line.decode(errors="replace"))
            sys.stdout.flush()
            with suppress(OSError):  # the disk is full: the program would wait for a reader
                log.write(line)


def _wait(process: subprocess.Popen[bytes], stop: StopSignal, deadline: float) -> Ending:
    reason: Literal["time", "signal"] | None = None
    while True:
        try:
            code = process.wait(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if reason is None and (stop.received is not None or time.monotonic() >= deadline):
                process.terminate()
                reason = "time" if stop.received is None else "signal"
        else:
            if code == EXIT_STOPPED or (reason is not None and code == -signal.SIGTERM):  # it had not begun to train
                return Ending(code, reason or "signal")
            return Ending(code, None)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Pass Ctrl-C on, each time it comes, until the process has ended."""
    while process.returncode is None:
        with suppress(KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
            process.wait()
