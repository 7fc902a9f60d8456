"""Locks between processes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loaders.atomic_file import clear_os_errors, make_folder
from loaders.errors import FastvitError

__all__ = ["file_lock"]


@contextmanager
def file_lock(path: Path, *, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, made with its folder, which is there only as long as it is held or its holder died.

    The kernel lets go of it when the process ends, however it ends.

    Args:
        path: The file.
        busy: What to say where another process holds it.

    Raises:
        FastvitError: Another process holds it, or the file cannot be made.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.file_lock import file_lock
        >>> with file_lock(Path("train.lock"), busy="another process is at it"):
        ...     with file_lock(Path("train.lock"), busy="another process is at it"):
        ...         pass
        Traceback (most recent call last):
        loaders.errors.FastvitError: another process is at it
    """
    while (descriptor := _lock(path, busy)) is None:
        pass
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before another process can hold it
        os.close(descriptor)


def _lock(path: Path, busy: str) -> int | None:
    """Open the file and lock it; None where whoever held it before removed it meanwhile."""
    with clear_os_errors(path):
        make_folder(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if path.parent.is_dir():  # and takes no file, as /proc
                raise
            return None  # the folder was removed, too
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise FastvitError(busy) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)
        return None
