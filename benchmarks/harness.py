"""Measuring side by side: each contender in a process of its own, all taking turns, with what each one cost."""

import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import psutil

Work = Callable[[int], int]
"""Does round number k and returns how many images it handled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One contender's turn."""

    num_images: int
    seconds: float
    cpu_seconds: float
    """Of the process and its children."""
    peak_rss_bytes: int
    """Largest resident memory so far, summed over the process and its living children."""


class Contender:
    """A piece of work in a process of its own, so that memory and threads are its own; a context manager.

    Args:
        name: For messages.
        prepare: Makes the work; a picklable function without arguments, run in the process.
    """

    def __init__(self, name: str, prepare: Callable[[], Work]) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # No daemon: a DataLoader's workers are children of this process, which daemons may not have.
        self._process = context.Process(target=_serve, args=(prepare, theirs), name=name)
        self._process.start()
        theirs.close()

    def run(self, number: int) -> Round:
        """Do round `number` and wait for it.

        Raises:
            RuntimeError: The work failed; the message has its traceback.
        """
        try:
            self._connection.send(number)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the process of {self._name} died (exit code {self._process.exitcode})") from error
        if isinstance(answer, str):
            raise RuntimeError(f"{self._name} failed: {answer}")
        result: Round = answer
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # the process ends when it finds nobody there
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()


def _serve(prepare: Callable[[], Work], connection: Connection) -> None:
    try:
        work = prepare()
        while True:
            number = connection.recv()
            cpu_before, start = _cpu_seconds(), time.perf_counter()
            num_images = work(number)
            seconds = time.perf_counter() - start
            connection.send(
                Round(
                    num_images=num_images,
                    seconds=seconds,
                    cpu_seconds=_cpu_seconds() - cpu_before,
                    peak_rss_bytes=_peak_rss_bytes(),
                )
            )
    except (EOFError, KeyboardInterrupt):
        return
    except Exception:
        connection.send(traceback.format_exc())


def _family() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def _cpu_seconds() -> float:
    own = psutil.Process().cpu_times()
    total = float(own.children_user + own.children_system)
    for process in _family():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _peak_rss_bytes() -> int:
    """The kernel's high-water marks; shared pages count once in each process."""
    total = 0
    for process in _family():
        try:
            with open(f"/proc/{process.pid}/status") as status:
                total += next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            continue
    return total
