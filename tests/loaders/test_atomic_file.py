import os
import subprocess
import sys
from pathlib import Path

import pytest

from loaders.atomic_file import atomic_file, remove_leftovers


def test_replaces_only_at_the_end(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_be_renamed_is_removed(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"), atomic_file(tmp_path / "folder") as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["folder"]


def test_leftovers_of_killed_processes_go(tmp_path: Path):
    """Of this file alone; those of this process are from one before it that had its number."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".a[1].{dead.pid}.tmp", f".a[1].{os.getpid()}.tmp", ".a[1].99999999999999999999999.tmp"]
    stay = [f".a[1].{os.getppid()}.tmp", f".a1.{dead.pid}.tmp", ".a[1].old.tmp", "a[1]"]
    for name in (*left, *stay):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a[1]")
    assert sorted(os.listdir(tmp_path)) == sorted(stay)
