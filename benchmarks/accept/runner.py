"""Runs jobs, each in a process of its own and with a limit on its time; what they find is in the file of rows."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.accept.setting import Job, LeftOut, Setting
from benchmarks.harness import Contender
from loaders.cpus import usable_cpus

__all__ = ["Runner"]

_SHARE_OF_PREPARATION = 0.6
_LEAST_REHEARSAL_SECONDS = 5.0
_MESSAGE_LENGTH = 600


class Runner:
    """Runs jobs until the time is up.

    The process of the next job imports what it needs while the one before it works, which saves seconds of each.

    Args:
        setting: What the jobs get.
        deadline: When all must have ended, on the clock `time.monotonic`.
        log: The file that gets what the processes print.
    """

    def __init__(self, setting: Setting, *, deadline: float, log: Path) -> None:
        self._setting = setting
        self._deadline = deadline
        self._log = log

    def run_together(self, jobs: Sequence[Job], *, after_each: Callable[[Job], None]) -> None:
        """Run jobs at the same time, as far as there are CPUs; they have a share of the time that is left."""
        deadline = time.monotonic() + _SHARE_OF_PREPARATION * (self._deadline - time.monotonic())

        def run(job: Job) -> None:
            self._run(job, self._process(), deadline)
            after_each(job)

        with ThreadPoolExecutor(max_workers=min(len(jobs), usable_cpus())) as pool:
            list(pool.map(run, jobs))

    def run_in_turn(self, jobs: Sequence[Job], *, after_each: Callable[[Job], None]) -> None:
        """Run jobs one after the other."""
        spare: Contender[Setting] | None = None
        for number, job in enumerate(jobs):
            left = self._deadline - time.monotonic()
            least_seconds = job.least_seconds if self._setting.on_cuda else _LEAST_REHEARSAL_SECONDS
            if left < least_seconds:
                reason = f"{max(0.0, left):.0f} s were left of the {least_seconds:.0f} that it needs"
                self._setting.add_row(job.stage, job.name, "left out", {"reason": reason})
            else:
                process = spare or self._process()
                spare = self._process() if number + 1 < len(jobs) else None
                self._run(job, process, self._deadline)
            after_each(job)
        if spare is not None:
            spare.kill()

    def _process(self) -> Contender[Setting]:
        return Contender("accept", partial(_get_ready, self._setting, self._log))

    def _run(self, job: Job, process: Contender[Setting], deadline: float) -> None:
        try:
            process.wait_until_ready(timeout_seconds=deadline - time.monotonic())
            cap_seconds = min(job.cap_seconds, deadline - time.monotonic())
            process.run(partial(_do, job=job), timeout_seconds=cap_seconds)
        except TimeoutError:
            if time.monotonic() >= deadline:
                self._setting.add_row(job.stage, job.name, "left out", {"reason": "the time was up before it ended"})
            else:
                problem = f"not done in {job.cap_seconds:.0f} s"
                self._setting.add_row(job.stage, job.name, "failed", {"problem": problem})
        except RuntimeError as error:  # it died, such as for lack of memory
            self._setting.add_row(job.stage, job.name, "failed", {"problem": str(error)[-_MESSAGE_LENGTH:]})
        finally:
            process.kill()  # its rows are written, and its memory is to be free for the next one


def _get_ready(setting: Setting, log: Path) -> Setting:
    """What every job needs, before its time begins."""
    sys.stdout.flush()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import_module("benchmarks.accept.plan")  # what jobs are made of
    if setting.on_cuda:
        import_module("torch._inductor.compile_fx")
        torch.zeros(1, device=setting.device)
    return setting


def _do(setting: Setting, job: Job) -> int:
    """Do a job and keep its rows; returns 0, as it has no images to count."""
    print(f"--- {job.stage}: {job.name}", flush=True)
    try:
        for row in job.work(setting):
            setting.add_row(job.stage, job.name, "failed" if row.get("problem") else "passed", row)
    except LeftOut as error:
        setting.add_row(job.stage, job.name, "left out", {"reason": str(error)})
    except Exception as error:
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"[:_MESSAGE_LENGTH]
        setting.add_row(job.stage, job.name, "failed", {"problem": problem})
    return 0
