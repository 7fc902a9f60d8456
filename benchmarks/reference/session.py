"""One call of `fastvit-bench reference`: one run after the other, inference, and after each of them the page."""

import contextlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_report import BenchReport, bench_report
from benchmarks.harness import say
from benchmarks.reference.experiments import SCALES, Scale
from benchmarks.reference.results import existing_rows, keep_row, run_row
from benchmarks.reference.runs import LOG, Ending, PlannedRun, is_done, run_program
from benchmarks.row_files import read_rows, replace_rows
from fastvit_train.signals import EXIT_STOPPED
from loaders.errors import FastvitError

__all__ = ["ROWS", "Session", "Stop"]

ROWS = "rows.jsonl"
_TITLE = "fastvit: the reference experiments"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a session ended before all was done."""

    reason: str
    exit_code: int


class Session:
    """What is done until the time is up.

    Args:
        scale: Whose experiments these are.
        out: The folder of all run folders.
        deadline: When it ends, on the clock `time.monotonic`.
    """

    def __init__(self, *, scale: Scale, out: Path, deadline: float) -> None:
        self._scale = scale
        self._out = out
        self._deadline = deadline
        self._rows = out / ROWS
        self._failures: list[str] = []

    def work(self, runs: Sequence[PlannedRun], *, with_inference: bool) -> Stop | None:
        """Train what is not trained yet, measure inference where that is wanted, and make the page.

        Raises:
            FastvitError: Something failed; what does not depend on it is done.
            KeyboardInterrupt: Ctrl-C came, and the run has ended.
        """
        for run in runs:
            if run.state == "done":
                keep_row(self._rows, run_row(run, scale=self._scale))
        self._write_report()
        stop = self._train([run for run in runs if run.state != "done"])
        if stop is None and with_inference:
            stop = self._measure_inference()
        if self._failures:
            raise FastvitError("; ".join(self._failures))
        return stop

    def _train(self, runs: Sequence[PlannedRun]) -> Stop | None:
        for number, run in enumerate(runs, start=1):
            name, start = run.experiment.name, run.experiment.starts_from
            if start is not None and not is_done(self._out / start):
                self._failures.append(f"{name} was left out, as it starts from {start}")
            elif time.monotonic() >= self._deadline:
                return self._time_is_up(f"{len(runs) - number + 1} experiments are left")
            else:
                say(f"\nexperiment {number} of {len(runs)}: {name}\n{run.command}")
                log = run.folder / LOG
                ending = run_program("fastvit-train", run.arguments, log=log, deadline=self._deadline)
                if stop := self._after(name, ending, log):
                    return stop
                if run.state == "done":
                    keep_row(self._rows, run_row(run, scale=self._scale))
                    self._write_report()
        return None

    def _measure_inference(self) -> Stop | None:
        """Measure the table's models, unless that is done."""
        names = self._measured_models()
        if not set(names) - {row.get("run") for row in existing_rows(self._rows)}:
            return None
        if time.monotonic() >= self._deadline:
            return self._time_is_up("inference is left")
        say(f"\ninference of {', '.join(names)}")
        found, log = self._out / "inference.jsonl", self._out / "inference.log"
        found.unlink(missing_ok=True)
        arguments = ["inference", *(str(self._out / name) for name in names), "--json", str(found)]
        ending = run_program("fastvit-bench", arguments, log=log, deadline=self._deadline)
        if stop := self._after("inference", ending, log):
            return stop
        if not ending.code:
            replace_rows(self._rows, read_rows(found), is_old=lambda row: row["benchmark"] == "inference")
            found.unlink()
            self._write_report()
        return None

    def _measured_models(self) -> list[str]:
        """The table's experiments that are done, one for each model."""
        rows = {row["experiment"]: row for row in existing_rows(self._rows) if row["benchmark"] == "reference"}
        by_model: dict[tuple[str, int], str] = {}
        for each in SCALES[self._scale]:
            if each.part == "table" and (row := rows.get(each.name)):
                by_model.setdefault((row["arch"], row["resolution"]), each.name)
        return list(by_model.values())

    def _after(self, name: str, ending: Ending, log: Path) -> Stop | None:
        """Whether the session ends with this program; a failure is kept for its end."""
        if ending.stopped_by == "time":
            return self._time_is_up(f"{name} is stopped")
        if ending.stopped_by == "signal":
            return Stop(f"a signal came, and {name} is stopped", EXIT_STOPPED)
        if ending.code:
            self._failures.append(f"{name} failed with exit code {ending.code}: see {log}")
            say(self._failures[-1])
        return None

    def _time_is_up(self, what: str) -> Stop:
        return Stop(f"the time is up, and {what}", 0)

    def _write_report(self) -> None:
        """Make the page of the rows that there are."""
        if not self._rows.exists():
            return
        page = self._out / "report.html"
        with contextlib.redirect_stdout(io.StringIO()):  # the names of all figures, after each experiment
            bench_report(
                BenchReport(
                    inputs=(self._rows,),
                    title=_TITLE,
                    out=page,
                    markdown=page.with_suffix(".md"),
                    png=self._out / "figures",
                )
            )
        say(f"page        {page}")
