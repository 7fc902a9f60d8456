"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_file", "clear_os_errors"]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path`, replacing what stood there, only once all of it is on disk.

    Until then it lies beside `path` under a temporary name; any exception in the body, Ctrl-C included, removes it.

    Raises:
        OSError: The file cannot be made, written or renamed; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    file = open(temporary, "wb")  # noqa: SIM115  # closing it can fail, and then the file must go too
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # closing writes what is still buffered: on a full disk that fails again
            file.close()
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def clear_os_errors(path: Path, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn a full disk and its like, while `path` is being written, into one message of the exception `kind`."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"{path}: cannot be written: {error.strerror or error}; make room there or choose another place"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
