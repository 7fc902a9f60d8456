"""Locks between processes: one holds them at a time, and nothing is left of them."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loaders import file_lock as module
from loaders.errors import FastvitError
from loaders.file_lock import file_lock

HOLD = """
import sys
from pathlib import Path
from loaders.file_lock import file_lock
with file_lock(Path(sys.argv[1]), busy="busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "a.lock"


def test_one_process_at_a_time(path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", HOLD, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    with subprocess.Popen(arguments, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FastvitError, match="^busy$"), file_lock(path, busy="busy"):
            pass
        holder.kill()
    with file_lock(path, busy="busy"):  # the kernel let go of it
        assert path.exists()
    assert not path.exists()


def test_a_lock_file_that_was_removed_meanwhile_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its holder removed it after it was opened here and before it was locked: a third process would make another."""
    removals = [lambda: path.unlink(), lambda: (path.unlink(), path.touch())]
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if removals:
            removals.pop()()
        lock(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with file_lock(path, busy="busy"):
        assert not removals
        with pytest.raises(FastvitError, match="busy"), file_lock(path, busy="busy"):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_folder_that_was_removed_meanwhile_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = os.open

    def open_late(name: Path, *options: int) -> int:
        if monkeypatch:
            monkeypatch.undo()
            path.parent.rmdir()
        return opened(name, *options)

    monkeypatch.setattr(module.os, "open", open_late)
    with file_lock(path, busy="busy"):
        assert path.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOLCK])
def test_a_lock_that_cannot_be_made_is_named_with_a_remedy(path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "open", refuse)
    message = rf"a\.lock: cannot be written: {os.strerror(number)}; make room there or choose another place"
    with pytest.raises(FastvitError, match=message), file_lock(path, busy="busy"):
        pass


def test_a_file_in_the_place_of_the_folder(path: Path):
    path.parent.touch()
    with (
        pytest.raises(FastvitError, match=r"a\.lock: cannot be written: .*made is a file, not a folder; make"),
        file_lock(path, busy="busy"),
    ):
        pass


def test_a_place_that_takes_no_file_is_refused(tmp_path: Path):
    link = tmp_path / "a.lock"
    link.symlink_to(tmp_path / "missing" / "a.lock")
    with pytest.raises(FastvitError, match=r"a\.lock: cannot be written: No such file"), file_lock(link, busy="busy"):
        pass
