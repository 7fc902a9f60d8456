"""The kernel's page cache: how much of some files is in memory, and getting it out of there."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from loaders.shards import find_shards

__all__ = ["evict", "files_of", "resident_fraction"]

_LIBC = ctypes.CDLL(None, use_errno=True)


def files_of(data: Path) -> list[Path]:
    """The files that a loader reads of data: the `.beton` file, the shards, or all files of a folder."""
    if shards := find_shards(data):
        return list(shards)
    return sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]


def evict(paths: Iterable[Path]) -> None:
    """Have the kernel drop the pages of files from memory, as far as it can: not those that a process has mapped.

    Raises:
        OSError: A file cannot be read.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a page that is not written yet stays
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident_fraction(paths: Iterable[Path]) -> float:
    """The share of the files' pages that is in memory; of a file that this user may not write, the kernel says all.

    Raises:
        OSError: A file cannot be read.
    """
    num_resident = num_pages = 0
    for path in paths:
        if path.stat().st_size:
            flags = _pages(path)
            num_resident += int((flags & 1).sum())
            num_pages += len(flags)
    return num_resident / num_pages if num_pages else 0.0


def _pages(path: Path) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Of each page a number that is odd where the page is in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        flags = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        data = np.frombuffer(mapped, np.uint8)
        address, length = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(len(mapped))
        del data  # the file cannot be unmapped while an array has its memory
        if _LIBC.mincore(address, length, flags.ctypes.data_as(ctypes.POINTER(ctypes.c_ubyte))):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    return flags
