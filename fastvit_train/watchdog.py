"""A watchdog: where a run stands still, it says what the run waits for, and ends it where no batch comes."""

import faulthandler
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from loaders import BadSample, Batch, ImageLoader
from loaders.contract import SaysWhatItReads

__all__ = ["Watchdog", "WatchedLoader"]

_LONGEST_INTERVAL_SECONDS = 5.0


class _Stage(NamedTuple):
    """What the run does; every time that it does it is another object."""

    text: str
    waits_for_data: bool = False


class Watchdog:
    """Watches that the run goes from one stage to the next.

    A stage that waits for data ends the process at the limit, so that torchrun or the batch system may start it again.
    Any other one (a step that compiles, an evaluation, a checkpoint, a sum that waits for another rank) may take long
    for good reasons: it is reported once and goes on. Entering a stage is one assignment.

    Examples:
        >>> from fastvit_train.watchdog import Watchdog
        >>> watchdog = Watchdog()
        >>> with watchdog.watch(timeout_seconds=600, where=lambda: "step 3"), watchdog.stage("writing a checkpoint"):
        ...     pass
    """

    def __init__(self) -> None:
        self._stage = _Stage("starting")
        self._readers: list[SaysWhatItReads] = []

    @property
    def waits_for_data(self) -> bool:
        """Whether the run waits for a batch."""
        return self._stage.waits_for_data

    def ask(self, loader: ImageLoader) -> None:
        """Ask this loader, if it can tell, what it reads while the run stands still."""
        if isinstance(loader, SaysWhatItReads):
            self._readers.append(loader)

    def enter(self, text: str, *, waits_for_data: bool = False) -> None:
        """Say what the run does from now on."""
        self._stage = _Stage(text, waits_for_data)

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Say what the run does in the body; afterwards it does what it did before."""
        before = self._stage
        self._stage = _Stage(text)
        try:
            yield
        finally:
            self._stage = _Stage(*before)

    @contextmanager
    def watch(self, *, timeout_seconds: float, where: Callable[[], str]) -> Iterator[None]:
        """Watch while the body runs, from a thread of its own.

        Args:
            timeout_seconds: The longest that one stage should take.
            where: Says how far the run is, and its folder, for the report.
        """
        done = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(done, timeout_seconds, where), name="fastvit-watchdog", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event, timeout_seconds: float, where: Callable[[], str]) -> None:
        interval = min(_LONGEST_INTERVAL_SECONDS, timeout_seconds / 4)
        stage, seconds = self._stage, 0.0
        # The intervals are counted, not the clock: while the whole process is stopped, nothing in it stands still.
        while not done.wait(interval):
            if self._stage is not stage:
                stage, seconds = self._stage, 0.0
                continue
            before, seconds = seconds, seconds + interval
            reads = [read for reader in self._readers for read in reader.at_work()]
            if before < timeout_seconds <= seconds:
                _report(stage, seconds, where(), reads)
                if stage.waits_for_data:
                    _end_process()


class WatchedLoader:
    """An `ImageLoader` whose batches a watchdog waits for, and for what is done with each.

    Args:
        loader: The loader.
        watchdog: Is told of each wait.
        path: The dataset, for the report.
        use: What is done with the batches: `training` or `evaluation`.
    """

    def __init__(self, loader: ImageLoader, watchdog: Watchdog, path: Path, *, use: str) -> None:
        self._loader = loader
        self._watchdog = watchdog
        watchdog.ask(loader)
        self._path = path
        self._use = use
        self._epoch = self._skip_batches = 0

    @property
    def skipped(self) -> Sequence[BadSample]:
        """See `ImageLoader.skipped`."""
        return self._loader.skipped

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """See `ImageLoader.set_epoch`."""
        self._epoch, self._skip_batches = epoch, skip_batches
        self._loader.set_epoch(epoch, resolution=resolution, skip_batches=skip_batches)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        number = self._skip_batches
        what = f"of {len(self._loader)}, epoch {self._epoch}, of {self._path}"
        self._watchdog.enter(f"waiting for the loader's batch {number + 1} {what}", waits_for_data=True)
        for batch in self._loader:
            number += 1
            self._watchdog.enter(f"{self._use} with batch {number} {what}")
            yield batch
            self._watchdog.enter(f"waiting for the loader's batch {number + 1} {what}", waits_for_data=True)
        self._watchdog.enter(f"{self._use} after batch {number} {what}")

    def close(self) -> None:
        """See `ImageLoader.close`."""
        self._loader.close()


def _report(stage: _Stage, seconds: float, where: str, reads: Sequence[tuple[str, float]]) -> None:
    """Write to standard error what stands still, and the stacks and states of all threads.

    Args:
        stage: What stands still.
        seconds: For how long.
        where: How far the run is.
        reads: What the loaders are at, each with the seconds since it was seen first.
    """
    ending = (
        "the run ends here, and --resume auto continues it from its last checkpoint; check the disk or file system of "
        "the data; --data.timeout-seconds is the limit"
        if stage.waits_for_data
        else "it may only be slow, as compilation is, or wait for another rank: the run goes on"
    )
    _write(f"fastvit-train: standing still for {seconds:.0f} s: {stage.text} ({where})\n")
    for name, since in sorted(reads, key=lambda read: -read[1]):
        _write(f"being read for {since:.0f} s: {name}\n")
    _write(f"{_threads()}\n")
    faulthandler.dump_traceback(sys.stderr.fileno(), all_threads=True)
    _write(f"fastvit-train: {ending}\n")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _threads() -> str:
    """The threads of this process and the loader's worker processes, by name and by the kernel's letter for a state."""
    threads = Counter(_name_and_state(path) for path in Path("/proc/self/task").iterdir())
    lines = "threads: " + ", ".join(f"{count} x {name}" for name, count in sorted(threads.items()))
    workers = [f"{child.pid} {_name_and_state(Path(f'/proc/{child.pid}'))}" for child in _worker_processes()]
    states = "(R runs, S waits, D waits for a disk or a network file system)"
    return "\n".join([f"{lines} {states}", *([f"worker processes: {', '.join(workers)}"] if workers else [])])


def _name_and_state(path: Path) -> str:
    try:
        name, _, rest = (path / "stat").read_text().partition("(")[2].rpartition(")")
    except OSError:  # it has ended meanwhile
        return "ended"
    return f"{name} {rest.split()[0]}"


def _worker_processes() -> Sequence[multiprocessing.process.BaseProcess]:
    return multiprocessing.active_children()


def _end_process() -> NoReturn:
    """End at once: nothing can be joined or closed while the main thread stands in it."""
    for child in _worker_processes():
        child.kill()
    sys.stdout.flush()
    os._exit(1)
