"""Signals that ask a run to end: it writes a checkpoint and stops.

SIGTERM and SIGUSR1 are what batch systems send before they end a job; SIGINT is Ctrl-C.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["EXIT_STOPPED", "RunStopped", "StopSignal"]

EXIT_STOPPED = 75
"""Exit code of a run that wrote a checkpoint when a signal came: EX_TEMPFAIL of sysexits.h, "try again later"."""

# Slurm signals every process of a job and torchrun passes the signal on, so that one request may come twice.
_SAME_REQUEST_SECONDS = 5
# Nobody presses Ctrl-C twice as fast, but torchrun passes on the one that each of its processes has got already.
_SAME_CTRL_C_SECONDS = 0.3


class RunStopped(SystemExit):
    """A signal stopped the run, and its checkpoint is written; not caught, it ends the process with `EXIT_STOPPED`."""

    def __init__(self) -> None:
        super().__init__(EXIT_STOPPED)


class StopSignal:
    """Remembers SIGTERM, SIGUSR1 and Ctrl-C between entering and leaving it; a second one ends the process.

    A second SIGTERM or SIGUSR1 does so seconds later, a second Ctrl-C at once, by KeyboardInterrupt. Where SIGINT has
    another handler than Python's own, as in a job of the shell's background, it stays.

    In a thread that is not the main one it does nothing: Python handles signals in the main thread alone.

    Args:
        may_interrupt: Whether the first Ctrl-C may raise KeyboardInterrupt where the program is just now.

    Examples:
        >>> import signal
        >>> from fastvit_train.signals import StopSignal
        >>> with StopSignal() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print(stop.received)
        SIGTERM
    """

    def __init__(self, may_interrupt: Callable[[], bool] = lambda: False) -> None:
        self.received: str | None = None
        """The name of the signal that came, if one did."""
        self.is_urgent = False
        """Ctrl-C came twice: KeyboardInterrupt may have been raised in the middle of a step."""
        self._may_interrupt = may_interrupt
        self._received_at = 0.0
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._handlers_before[number] = signal.signal(number, self._receive)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._handlers_before[signal.SIGINT] = signal.signal(signal.SIGINT, self._receive_ctrl_c)
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

    def _receive_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        before, self._received_at = self._received_at, time.monotonic()
        is_first, self.received = self.received is None, self.received or signal.Signals(number).name
        if is_first and not self._may_interrupt():
            # Not by print, in the middle of which it may have come.
            os.write(sys.stderr.fileno(), b"\nCtrl-C: the run stops after this step; a second one ends it at once\n")
        elif is_first or self._received_at - before > _SAME_CTRL_C_SECONDS:
            self.is_urgent = not is_first
            signal.default_int_handler(number, frame)
