"""Inputs by number through a check, in a process that may die of one: what it dies of, hangs at or reports is kept."""

import contextlib
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn


class Verdict(NamedTuple):
    """What became of one input."""

    number: int
    outcome: str
    """One line."""
    is_fault: bool


def fuzz(
    check: Callable[[int], str], numbers: Iterable[int], *, seconds_per_input: float = 60, more_memory: int = 4 << 30
) -> Iterator[Verdict]:
    """Check each input in turn.

    Args:
        check: Gets an input's number, returns its outcome; what it prints to stderr is lost. An exception is a fault,
            and so is the end of the process.
        numbers: Of the inputs.
        seconds_per_input: The time for one, after which it counts as a hang.
        more_memory: How many bytes of memory a check may have, on top of what this process has when it starts.
    """
    waiting = list(numbers)
    while waiting:
        num_done = 0
        for verdict in _in_a_child(check, waiting, seconds_per_input, more_memory):
            yield verdict
            num_done += 1
        waiting = waiting[num_done:]


def _in_a_child(
    check: Callable[[int], str], numbers: list[int], seconds_per_input: float, more_memory: int
) -> Iterator[Verdict]:
    """Up to the input that ends the child, if one does."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(check, numbers, writer, more_memory)
    os.close(writer)
    try:
        with open(reader, "rb", buffering=0) as lines:
            for number in numbers:
                is_there, _, _ = select.select([lines], [], [], seconds_per_input)
                line = lines.readline() if is_there else b""
                if not line:
                    yield Verdict(number, _how_it_ended(child) if is_there else "it hangs", True)
                    return
                yield Verdict(number, line[1:].decode().strip(), line.startswith(b"!"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _work(check: Callable[[int], str], numbers: list[int], writer: int, more_memory: int) -> NoReturn:
    """The child's part. Nothing of the parent's may run in it, whatever happens."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libtiff tells of every damaged row
        limit = _memory() + more_memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            try:
                line = f" {check(number)}"
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                line = f"!{error!r} at {place.filename}:{place.lineno}"
            os.write(writer, " ".join(line.split("\n")).encode("utf-8", "backslashreplace") + b"\n")
    finally:
        os._exit(0)


def _memory() -> int:
    """What this process has, in bytes of addresses."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _how_it_ended(child: int) -> str:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"the process died of {signal.Signals(os.WTERMSIG(status)).name}"
    return f"the process ended with status {os.WEXITSTATUS(status)}"
