"""Files leave the page cache where the file system lets them, and what is left is known."""

import mmap
import os
from pathlib import Path

import pytest

from benchmarks.page_cache import evict, files_of, resident_fraction

_PAGE = mmap.PAGESIZE


@pytest.fixture
def file(tmp_path):
    """A file of eight and a half pages, which are in memory."""
    path = tmp_path / "data"
    path.write_bytes(bytes(8 * _PAGE + _PAGE // 2))
    return path


def test_what_was_just_written_is_in_memory(file, tmp_path):
    (tmp_path / "empty").touch()
    assert resident_fraction([file, tmp_path / "empty"]) == 1
    assert resident_fraction([tmp_path / "empty"]) == 0


def test_evicted_files_are_on_the_disk_alone(file):
    evict([file])
    if resident_fraction([file]) == 1:
        pytest.skip(f"{file.parent} is on a file system that keeps its files in memory")
    assert resident_fraction([file]) == 0
    with file.open("rb", buffering=0) as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # without reading ahead
        opened.read(1)
    assert 0 < resident_fraction([file]) < 1


def test_mapped_pages_stay_and_are_seen(file):
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[5 * _PAGE] == 0  # brings the page into this process
        evict([file])
        assert resident_fraction([file]) > 0


def test_files_in_memory_alone_stay_there():
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("no /dev/shm")
    path = folder / f"fastvit-test-{os.getpid()}"
    try:
        path.write_bytes(bytes(3 * _PAGE))
        evict([path])
        assert resident_fraction([path]) == 1
    finally:
        path.unlink()


def test_the_files_of_data(tmp_path):
    shards, folder = tmp_path / "shards", tmp_path / "folder"
    for path in (tmp_path / "a.beton", shards / "0.tar", shards / "0.idx", folder / "cat" / "1.jpg", folder / "x.txt"):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    assert files_of(tmp_path / "a.beton") == [tmp_path / "a.beton"]
    assert files_of(shards) == [shards / "0.tar"]
    assert files_of(folder) == [folder / "cat" / "1.jpg", folder / "x.txt"]
