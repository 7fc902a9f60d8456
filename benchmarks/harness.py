"""Measuring side by side: each contender in its own process, all taking turns, with what each one cost."""

import multiprocessing
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch

from benchmarks.gpu_load import busy_fraction
from fastvit_train.device import peak_rss_bytes
from loaders.errors import FastvitError, MissingPackageError

try:
    import psutil
except ImportError as error:
    raise MissingPackageError(
        f"benchmarks need psutil ({error}); install it with: pip install 'fastvit[bench]'"
    ) from error

__all__ = [
    "Contender",
    "Subject",
    "Turn",
    "cpu_seconds",
    "say",
    "seconds_since_start",
    "started",
    "take_turns",
]

Subject = TypeVar("Subject")
_Found = TypeVar("_Found")

_WATCH_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a contender did in one turn, and what it cost."""

    num_images: int
    seconds: float
    cpu_seconds: float
    """Of the process and its children."""
    peak_rss_bytes: int
    """Largest resident memory so far, summed over the process and its living children."""
    peak_device_memory_bytes: int | None = None
    """The most memory of tensors on a CUDA device so far; None of work that uses none."""
    device_busy_fraction: float | None = None
    """`busy_fraction` of that device during the turn."""


class _Question(NamedTuple):
    """What a process is asked for, apart from work."""

    look: Callable[[Any], object]


class _Answer(NamedTuple):
    """What was found: a text of its own would be an error."""

    found: Any


class Contender(Generic[Subject]):
    """What is measured, in its own process, so that memory and threads are its own; a context manager.

    Args:
        name: For messages.
        prepare: Makes the subject; a picklable function without arguments, run in the process before its first turn.
    """

    def __init__(self, name: str, prepare: Callable[[], Subject]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # No daemon: a DataLoader's workers are children of this process, which daemons may not have.
        self._process = context.Process(target=_serve, args=(prepare, theirs), name=name)
        self._process.start()
        theirs.close()

    def wait_until_ready(self, *, timeout_seconds: float | None = None) -> None:
        """Wait until the subject is there, so that making it does not disturb the turns of others.

        Raises:
            RuntimeError: It could not be made.
            TimeoutError: See `run`.
        """
        self._answer(timeout_seconds)

    def run(self, work: Callable[[Subject], int], *, timeout_seconds: float | None = None) -> Turn:
        """Have `work`, which must be picklable, done to the subject and wait for it; it returns a number of images.

        Raises:
            RuntimeError: The work failed; the message says why.
            TimeoutError: It took longer than `timeout_seconds`; the process and its children are killed.
        """
        with suppress(BrokenPipeError):  # `_answer` tells of a process that has died
            self._connection.send(work)
        turn = self._answer(timeout_seconds)
        assert isinstance(turn, Turn)
        return turn

    def ask(self, look: Callable[[Subject], _Found]) -> _Found:
        """What `look`, which must be picklable as what it returns must, finds of the subject; nothing is measured.

        Raises:
            RuntimeError: It failed; the message says why.
        """
        with suppress(BrokenPipeError):
            self._connection.send(_Question(look))
        answer = self._answer()
        assert isinstance(answer, _Answer)
        found: _Found = answer.found
        return found

    def run_watched(self, work: Callable[[Subject], int]) -> int:
        """Like `run`, but watch the memory, which takes time: its peak in bytes, with that of children that have ended.

        Raises:
            RuntimeError: The work failed.
        """
        with suppress(BrokenPipeError):
            self._connection.send(work)
        process, peak_rss_bytes = psutil.Process(self._process.pid), 0
        while not self._connection.poll(_WATCH_SECONDS):
            peak_rss_bytes = max(peak_rss_bytes, _peak_rss_bytes(process))
        turn = self._answer()
        assert isinstance(turn, Turn)
        return max(peak_rss_bytes, turn.peak_rss_bytes)

    def anonymous_rss_bytes(self) -> int:
        """The resident memory of the process and its children, without that of files, which others share."""
        return sum(_anonymous_rss_bytes(process.pid) for process in _family(psutil.Process(self._process.pid)))

    def kill(self) -> None:
        """End the process and its children at once."""
        with suppress(psutil.NoSuchProcess):
            for process in reversed(_family(psutil.Process(self._process.pid))):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.join(timeout=10)

    def _answer(self, timeout_seconds: float | None = None) -> Turn | _Answer | None:
        if timeout_seconds is not None and not self._connection.poll(max(0.0, timeout_seconds)):
            self.kill()
            raise TimeoutError(f"{self.name} took longer than {timeout_seconds:.0f} s")
        try:
            answer: Turn | _Answer | str | None = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=10)
            raise RuntimeError(f"the process of {self.name} died (exit code {self._process.exitcode})") from error
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name} failed: {answer}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # the process ends when it finds nobody there
        self._process.join(timeout=10)
        if self._process.is_alive():
            self.kill()


@contextmanager
def started(subjects: Mapping[str, Callable[[], Subject]]) -> Iterator[dict[str, Contender[Subject]]]:
    """Contenders by name, all of them ready; `subjects` has what makes theirs.

    Raises:
        RuntimeError: A subject could not be made.
    """
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(Contender(name, prepare)) for name, prepare in subjects.items()}
        for name, contender in contenders.items():
            say(f"preparing {name}")
            contender.wait_until_ready()
        say("warming up")
        yield contenders


def take_turns(names: Iterable[str], num_rounds: int, turn: Callable[[str, int], Turn]) -> dict[str, list[Turn]]:
    """Have every contender do a turn in every round, so that what slows the machine down hits all of them.

    Args:
        names: The contenders, in the order of their turns.
        num_rounds: How many turns each has.
        turn: Does the turn of a contender in a round, from 1.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in _counted_rounds(num_rounds):
        for name, mine in turns.items():
            mine.append(turn(name, number))
    return turns


def _counted_rounds(number: int) -> Iterator[int]:
    """The numbers of so many rounds, from 1, said on stderr as they begin, with the time that the rest will take."""
    start = time.monotonic()
    for current in range(1, number + 1):
        done = current - 1
        left = (time.monotonic() - start) / 60 / done * (number - done) if done else 0
        say(f"round {current} of {number}" + (f", {left:.1f} min left" if done else ""))
        yield current


def say(text: str) -> None:
    """Tell whoever waits, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _serve(prepare: Callable[[], Subject], connection: Connection) -> None:
    # What is spawned spawns by default; a DataLoader is to start its workers as it does anywhere else.
    multiprocessing.set_start_method(None, force=True)
    try:
        subject = prepare()
        connection.send(None)
        while True:
            work: Callable[[Subject], int] | _Question = connection.recv()
            answer = _Answer(work.look(subject)) if isinstance(work, _Question) else _measure(work, subject)
            connection.send(answer)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except (FastvitError, OSError) as error:  # these say by themselves what is wrong
        connection.send(str(error))
    except Exception:
        connection.send(traceback.format_exc())


def _measure(work: Callable[[Subject], int], subject: Subject) -> Turn:
    cpu_before, time_before, start = cpu_seconds(), time.time(), time.perf_counter()
    num_images = work(subject)
    seconds = time.perf_counter() - start
    uses_device = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return Turn(
        num_images=num_images,
        seconds=seconds,
        cpu_seconds=cpu_seconds() - cpu_before,
        peak_rss_bytes=_peak_rss_bytes(psutil.Process()),
        peak_device_memory_bytes=torch.cuda.max_memory_allocated() if uses_device else None,
        device_busy_fraction=busy_fraction(since=time_before) if uses_device else None,
    )


def seconds_since_start() -> float:
    """The age of this process: Python's start and imports took a part of it."""
    return time.time() - float(psutil.Process().create_time())


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_seconds() -> float:
    """What this process and its children have computed so far, with the children that have ended."""
    total = 0.0
    for process in _family(psutil.Process()):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _peak_rss_bytes(ancestor: psutil.Process) -> int:
    """The kernel's high-water marks; shared pages count once in each process."""
    total = 0
    for process in _family(ancestor):
        with suppress(FileNotFoundError, ProcessLookupError):
            total += peak_rss_bytes(process.pid)
    return total


def _anonymous_rss_bytes(pid: int) -> int:
    """As the kernel has it in kB; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(number) for number in re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE))
