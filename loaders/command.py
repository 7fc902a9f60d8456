"""How every command ends: an exit code, and for an error or Ctrl-C one message on stderr instead of a traceback.

A command's work matters more than what it prints. Output that nobody reads any more, as with `| head -1`, is dropped
quietly. Where output cannot be written for another reason, such as a full disk, the exit code is 1 once all is done.
"""

import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from loaders.errors import FastvitError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["run_command"]


def run_command(work: Callable[[], int | None], *, name: str = "error", interrupted: str) -> int:
    """Do a command's work, from reading its options on, and return its exit code.

    Args:
        work: Returns the exit code; none is 0.
        name: What messages begin with.
        interrupted: What to tell whoever pressed Ctrl-C: what is left, or how to continue.

    Returns:
        The code of `work`, 1 after an error that the user can do something about or when output was lost, 130 after
        Ctrl-C.

    Raises:
        SystemExit: From `work`, as after `--help` or a wrong option.

    Examples:
        >>> from loaders.command import run_command
        >>> run_command(lambda: print("3 images"), interrupted="interrupted")
        3 images
        0
    """
    _open_missing()
    with _output("stdout") as stdout, _output("stderr") as stderr:
        try:
            code = _exit_code(work, name, interrupted)
        except SystemExit as end:
            if end.code or not _lost(stdout, stderr):
                raise
            code = 0
        if not code and (error := _lost(stdout, stderr)):
            print(f"{name}: not all output could be written: {error.strerror}", file=sys.stderr)
            return 1
        return code


def _exit_code(work: Callable[[], int | None], name: str, interrupted: str) -> int:
    try:
        return work() or 0
    except (FastvitError, OSError) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"{name}: {error}{notes}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


class _Output(io.FileIO):
    """Where standard output or error goes. What cannot be written is lost, and whoever writes need not know."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None
        """The first that was not for want of a reader."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block, and it is full
                select.select([], [self], [])
            return written
        except ConnectionError:
            pass  # a closed pipe or socket: whoever read it has seen enough
        except OSError as error:
            self.error = self.error or error
        return memoryview(data).nbytes


@contextmanager
def _output(name: str) -> Iterator[_Output | None]:
    """Let `sys.stdout` or `sys.stderr` write to an `_Output`; None where it is not the process's own, as in tests."""
    before: TextIO = getattr(sys, name)
    if before is not getattr(sys, f"__{name}__") or not isinstance(before, io.TextIOWrapper):
        yield None
        return
    output = _Output(before.fileno())
    now = io.TextIOWrapper(
        output if before.write_through else io.BufferedWriter(output),  # python -u
        encoding=before.encoding,
        errors="backslashreplace",  # names of files may be any bytes
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    setattr(sys, name, now)
    try:
        yield output
    finally:
        now.flush()
        setattr(sys, name, before)


def _lost(*outputs: _Output | None) -> OSError | None:
    """Why output was lost, if it was."""
    sys.stdout.flush()
    sys.stderr.flush()
    return next((output.error for output in outputs if output and output.error), None)


def _open_missing() -> None:
    """Open what the process was started without: else a file of data gets its number, and with it stray messages."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # as long as the process
