"""SIGTERM and SIGUSR1, which batch systems send before they end a job: the run writes a checkpoint and stops."""

import signal
import threading
import time
from types import FrameType
from typing import Any

__all__ = ["EXIT_STOPPED", "RunStopped", "StopSignal"]

EXIT_STOPPED = 75
"""Exit code of a run that wrote a checkpoint when a signal came: EX_TEMPFAIL of sysexits.h, "try again later"."""

# Slurm signals every process of a job and torchrun passes the signal on, so that one request may come twice.
_SAME_REQUEST_SECONDS = 5


class RunStopped(SystemExit):
    """A signal stopped the run, and its checkpoint is written; not caught, it ends the process with `EXIT_STOPPED`."""

    def __init__(self) -> None:
        super().__init__(EXIT_STOPPED)


class StopSignal:
    """Remembers SIGTERM and SIGUSR1 between entering and leaving it; a second one, seconds later, ends the process.

    In a thread that is not the main one it does nothing: Python handles signals in the main thread alone.

    Examples:
        >>> import signal
        >>> from fastvit_train.signals import StopSignal
        >>> with StopSignal() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print(stop.received)
        SIGTERM
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """The name of the signal that came, if one did."""
        self._received_at = 0.0
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._handlers_before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by other than Python

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signal.Signals(number).name, now
        elif now - self._received_at > _SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
