"""Acceptance of a machine: do the tests pass on its card, and how fast is it; all within a given time."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.accept.plan import STAGES, TOGETHER
from benchmarks.accept.report import write_report
from benchmarks.accept.runner import Runner
from benchmarks.accept.setting import Job, make_setting
from benchmarks.environment import environment
from benchmarks.harness import seconds_since_start
from benchmarks.options import split_names
from benchmarks.row_files import Row, read_rows
from loaders.errors import FastvitError

__all__ = ["BenchAccept", "bench_accept"]

_SECONDS_FOR_THE_REPORT = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchAccept:
    """Find out what fastvit does on this machine's card: tests, speed, accuracy, a report of one page."""

    minutes: float = 15.0
    """How long it may take; what does not fit is left out, and the report says so."""
    out: Path = Path("runs/accept")
    """Folder of the report (report.md, report.html), the rows (rows.jsonl, to which each is added as soon as it is
    there) and what the stages print (log.txt)."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What is measured; cpu rehearses all stages with small sizes, whose figures mean nothing."""
    stages: tuple[str, ...] = tuple(STAGES)
    """Which, separated by spaces or commas, always in the order of their worth."""
    photos: Path | None = None
    """A .beton file of JPEGs; when not given, some are made."""
    commit: str | None = None
    """What the rows name as the commit; as git has it when not given, which a wheel does not know."""
    data: Path = Path("data")
    """Folder with cifar10_train.beton and cifar10_test.beton, for the stage accuracy."""

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise FastvitError(f"minutes must be positive, got {self.minutes:g}")
        _ = self.jobs

    @property
    def jobs(self) -> list[Job]:
        """What there is to do, in the order of its worth."""
        chosen = split_names(self.stages, STAGES, kind="stage")
        jobs = [job for name, jobs in STAGES.items() if name in chosen for job in jobs]
        return [job for job in jobs if job.is_rehearsed or self.device == "cuda"]


def bench_accept(config: BenchAccept) -> list[Row]:
    """Run the stages, write and print the report and return the rows.

    Raises:
        FastvitError: There is no CUDA device, or a file is missing.
        RuntimeError: Something failed; the report says what.
    """
    start = time.monotonic() - seconds_since_start()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise FastvitError("torch sees no CUDA device; --device cpu rehearses the stages")
    if config.photos is not None and not config.photos.is_file():
        raise FastvitError(f"photos must be a .beton file, but there is no {config.photos}")
    config.out.mkdir(parents=True, exist_ok=True)
    rows_path = config.out.resolve() / "rows.jsonl"
    rows_path.touch()
    skip_bytes = rows_path.stat().st_size  # rows of earlier runs stay

    def report(job: Job | None) -> None:
        rows = read_rows(rows_path, skip_bytes=skip_bytes)
        seconds = time.monotonic() - start
        write_report(config.out, rows, minutes=config.minutes, seconds=seconds, is_done=job is None)
        if job is not None:
            mine = [row for row in rows if (row["stage"], row["name"]) == (job.stage, job.name)]
            status = next((row for row in mine if row["status"] != "passed"), {"status": "passed"})
            why = status.get("problem") or status.get("reason") or ""
            print(f"{seconds:6.0f} s  {job.stage}: {job.name}: {status['status']} {why}".rstrip(), flush=True)

    if config.device == "cpu":
        # Threads that wait for each other on a busy machine take minutes; what stages start inherits this.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        setting = make_setting(
            device=config.device,
            photos=config.photos,
            data=config.data,
            work=Path(folder),
            rows=rows_path,
            origin=environment() | ({} if config.commit is None else {"commit": config.commit}),
        )
        deadline = start + 60 * config.minutes - _SECONDS_FOR_THE_REPORT
        runner = Runner(setting, deadline=deadline, log=config.out.resolve() / "log.txt")
        jobs = config.jobs
        if together := [job for job in jobs if job.stage in TOGETHER]:
            runner.run_together(together, after_each=report)
        runner.run_in_turn([job for job in jobs if job.stage not in TOGETHER], after_each=report)
    report(None)
    print((config.out / "report.md").read_text())
    rows = read_rows(rows_path, skip_bytes=skip_bytes)
    failed = [f"{row['stage']}: {row['name']}" for row in rows if row["status"] == "failed"]
    if failed:
        raise RuntimeError(f"{len(failed)} failed: {'; '.join(failed)}; see {config.out / 'report.md'}")
    return rows
