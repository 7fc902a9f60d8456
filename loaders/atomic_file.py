"""Files that appear whole or not at all."""

import errno
import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from loaders.errors import FastvitError

__all__ = ["AtomicWriter", "atomic_file", "clear_os_errors", "make_folder", "remove_leftovers", "sync_folder"]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path`, replacing what stood there, only once all of it is on disk.

    Until then it lies next to `path` under a temporary name; any exception in the body, Ctrl-C included, removes it.

    Raises:
        OSError: The file cannot be made, written or renamed; nothing is left behind.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.atomic_file import atomic_file
        >>> with atomic_file(Path("result.txt")) as file:
        ...     _ = file.write(b"93.7 %")
        ...     Path("result.txt").exists()
        False
        >>> Path("result.txt").read_bytes()
        b'93.7 %'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    file = open(temporary, "wb")  # noqa: SIM115  # closing it can fail, and then the file must go too
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the new name with nothing behind it
        file.close()
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # closing writes what is still buffered: on a full disk that fails again
            file.close()
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those around it, where they are missing.

    Raises:
        OSError: It cannot be made, or a file has its name.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.atomic_file import make_folder
        >>> make_folder(Path("a/b"))
        >>> make_folder(Path("a/b"))
        >>> Path("a/b").is_dir()
        True
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, not a folder") from error


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes left behind.

    Call it where no other thread of this process writes `path`. What belongs to another process that is alive stays.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.atomic_file import remove_leftovers
        >>> left = Path(".result.txt.99999999.tmp")  # no process has so high a number
        >>> left.touch()
        >>> remove_leftovers(Path("result.txt"))
        >>> left.exists()
        False
    """
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = temporary.name.removesuffix(".tmp").rpartition(".")[2]
        if number.isdecimal() and not _is_another_process(int(number)):
            temporary.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    """Whether another process of this number is alive; ours may have the number of one before, as in a container."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


@contextmanager
def clear_os_errors(path: Path, kind: type[FastvitError] = FastvitError) -> Iterator[None]:
    """Turn a full disk and its like, while `path` is being written, into one message of the exception `kind`.

    Raises:
        FastvitError: Or rather `kind`: an OSError came; the message names the file, the fault and the remedy.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.atomic_file import atomic_file, clear_os_errors
        >>> path = Path("no/a")
        >>> with clear_os_errors(path), atomic_file(path) as file:
        ...     _ = file.write(b"93.7 %")
        Traceback (most recent call last):
        loaders.errors.FastvitError: no/a: cannot be written: No such file or directory; make room there or choose...
    """
    try:
        yield
    except OSError as error:
        raise kind(
            f"{path}: cannot be written: {error.strerror or error}; make room there or choose another place"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut, where the file system can.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.atomic_file import sync_folder
        >>> Path("draft.txt").touch()
        >>> _ = Path("draft.txt").rename("final.txt")
        >>> sync_folder(Path())
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class AtomicWriter(ABC):
    """Writes the file `path` piece by piece.

    A context manager: leaving it in the ordinary way puts the finished file at `path`; leaving it by an exception
    leaves what was there before.

    Args:
        path: The file to write.
        error: The exception that a full disk and its like become: see `clear_os_errors`.

    Raises:
        FastvitError: `path` is a folder or cannot be written; of the kind `error`.

    Examples:
        >>> from pathlib import Path
        >>> from loaders.atomic_file import AtomicWriter
        >>> class Words(AtomicWriter):
        ...     def append(self, word: str) -> None:
        ...         self._file.write(word.encode() + b" ")
        ...
        ...     def _finish(self) -> None:
        ...         self._file.write(b"end")
        >>> with Words(Path("words.txt")) as words:
        ...     words.append("one")
        ...     words.append("two")
        >>> Path("words.txt").read_text()
        'one two end'
    """

    def __init__(self, path: Path, error: type[FastvitError] = FastvitError) -> None:
        self.path, self._error = path, error
        if path.is_dir():
            raise error(f"{path}: cannot be written: it is a folder; name a file")
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with clear_os_errors(self.path, self._error):
            self._file: BinaryIO = self._open.enter_context(atomic_file(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:  # outside of clear_os_errors: an OSError of the body need not be about this file
            self._open.__exit__(kind, error, traceback)
            return
        with clear_os_errors(self.path, self._error), self._open:
            self._finish()

    @abstractmethod
    def _finish(self) -> None:
        """Write what makes the file whole, or raise: then nothing appears."""
