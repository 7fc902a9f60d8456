"""Reads that may never come back, as those of a dead network file system: nobody waits for them longer than seconds."""

import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["PATIENCE_SECONDS", "ReaderThreads", "warn_of_stuck_reads"]

Result = TypeVar("Result")

PATIENCE_SECONDS = 3.0
"""How long whoever wants to end waits for a read. The C++ engine has the same number."""


def warn_of_stuck_reads(names: Sequence[str], readers: str) -> None:
    """Say which reads were left behind, where there are any.

    Args:
        names: Of the samples that were being read, one for each reader.
        readers: Who reads them, such as "the loader's threads".

    Examples:
        >>> from loaders.reads import warn_of_stuck_reads
        >>> warn_of_stuck_reads([], "the loader's threads")
    """
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"left behind: {len(names)} of {readers}, still reading {', '.join(names[:3])}{more}: "
            "check the disk or the network file system",
            RuntimeWarning,
            stacklevel=3,
        )


class ReaderThreads:
    """Threads that call functions, in the order in which they are given; `close` leaves those behind that don't return.

    In contrast to those of `ThreadPoolExecutor`, the end of the process does not wait for them.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.reads import ReaderThreads
        >>> threads = ReaderThreads(2)
        >>> future = threads.submit(lambda: threads.at(lambda: "0.jpg") or len(Path("photos/cat/0.jpg").read_bytes()))
        >>> future.result() > 1000
        True
        >>> threads.close()
        []
    """

    def __init__(self, num_threads: int) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._at: dict[threading.Thread, Callable[[], str]] = {}
        self._seen: dict[threading.Thread, tuple[str, float]] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], Result]) -> "Future[Result]":
        """Have a thread call `function`."""
        future: Future[Result] = Future()
        self._tasks.put((future, function))
        return future

    def at(self, name: Callable[[], str]) -> None:
        """Called by what a thread calls: `name` says, when it is asked, which sample that reads from now on."""
        self._at[threading.current_thread()] = name

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work` in contract.py."""
        now = time.monotonic()
        names = {thread: name() for thread, name in list(self._at.items())}
        before = self._seen
        self._seen = {
            thread: before[thread] if before.get(thread, ("",))[0] == name else (name, now)
            for thread, name in names.items()
        }
        return [(name, now - since) for name, since in self._seen.values()]

    def dismiss(self) -> None:
        """Have the threads end after what they are at, without waiting for that."""
        self._is_closed = True
        for _ in self._threads:
            self._tasks.put(None)

    def close(self) -> list[str]:
        """End the threads after what they are at; returns the names of what does not end within `PATIENCE_SECONDS`."""
        self.dismiss()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [self._at[thread]() for thread in self._threads if thread.is_alive() and thread in self._at]

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_closed:
            future, function = task
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            self._at.pop(threading.current_thread(), None)
            del task, future, function  # a thread that waits keeps nothing of what it did
