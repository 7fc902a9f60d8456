"""How fast the images of a data set come from where they lie: the page cache, or the disk behind it."""

import ctypes
import errno
import mmap
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.doctor.sample import DataSet, Place, draw, place_of
from loaders.order import RUN_LENGTH

__all__ = ["Reading", "probe_reading", "resident_fraction"]

_READS_AT_ONCE = 32
"""About what disks get of the images that the engine asks for ahead of its threads."""
_LEAST_PREFETCHED = 1 << 14  # kWorthPrefetching of loaders/native/records/mapped_records.cpp
_READ_AROUND = 1 << 17
_NUM_RUNS = 8
_MOST_IMAGES = 2048

_libc = ctypes.CDLL(None)


class Reading(NamedTuple):
    """What reading the data set costs."""

    cached_fraction: float
    """The share of its pages that the page cache has, as far as the system tells."""
    page_cache_bytes_per_second: float | None
    """Of images that it has; None where it has none."""
    random_bytes_per_second: float | None
    """From the disk, images in random order; None where the file system reads through the page cache alone."""
    runs_bytes_per_second: float | None
    """The same of runs of neighbours, as `quasi_random` order reads them."""


def probe_reading(data_set: DataSet, *, num_threads: int, seconds: float) -> Reading:
    """Read some images as the loader does; those from the disk past the page cache, which stays as it is.

    Args:
        data_set: What is to be read.
        num_threads: The loader's.
        seconds: How long it may take, about.
    """
    places = [place_of(sample) for sample in draw(data_set, _MOST_IMAGES)]
    random.Random(1).shuffle(places)
    there = [place for place in places[: _MOST_IMAGES // 8] if resident_fraction([place]) == 1]
    at_once = _READS_AT_ONCE if data_set.is_mapped else num_threads
    direct = partial(_bytes_per_second, num_threads=at_once, seconds=seconds / 3, flags=os.O_DIRECT)
    return Reading(
        resident_fraction(places),
        _bytes_per_second(there, num_threads=num_threads, seconds=seconds / 3, flags=0) if there else None,
        direct(places),
        direct(_runs(data_set)),
    )


def resident_fraction(places: Iterable[Place]) -> float:
    """The share of these pages that the page cache has; 1 where the system does not tell, as of files of others."""
    num_resident = num_pages = 0
    by_file: defaultdict[Path, list[Place]] = defaultdict(list)
    for place in places:
        by_file[place.path].append(place)
    for path, parts in by_file.items():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for place in parts:
                pages = _resident_pages(mapped, place)
                num_resident += int(pages.sum())
                num_pages += len(pages)
    return num_resident / num_pages if num_pages else 1.0


def _resident_pages(mapped: mmap.mmap, place: Place) -> NDArray[np.uint8]:
    """1 for each page of an image in a mapped file that is in memory, else 0."""
    first, end = place.offset // mmap.PAGESIZE * mmap.PAGESIZE, place.offset + place.size
    pages = np.ones(-(-(end - first) // mmap.PAGESIZE), np.uint8)
    address = np.frombuffer(mapped, np.uint8).ctypes.data + first
    _libc.mincore(*map(ctypes.c_void_p, (address, end - first, pages.ctypes.data)))  # leaves ones where it fails
    return pages & np.uint8(1)


def _runs(data_set: DataSet) -> list[Place]:
    """Images in runs of neighbours, as `quasi_random` order has them."""
    total = len(data_set.images)
    starts = random.Random(2).sample(range(max(1, total - RUN_LENGTH)), min(_NUM_RUNS, max(1, total - RUN_LENGTH)))
    return [
        place_of(data_set.images[index]) for start in starts for index in range(start, min(start + RUN_LENGTH, total))
    ]


def _bytes_per_second(places: Sequence[Place], *, num_threads: int, seconds: float, flags: int) -> float | None:
    """Read until the time is up; None where the file system cannot open files with these flags."""
    end = time.perf_counter() + seconds
    of_thread = threading.local()
    largest = max(last - first for first, last in map(_whole_pages, places))

    def read(place: Place) -> int:
        if time.perf_counter() > end:
            return 0
        if not hasattr(of_thread, "memory"):
            of_thread.memory = memoryview(mmap.mmap(-1, largest))  # which begins with a page, as O_DIRECT wants it
        first, last = _whole_pages(place)
        descriptor = os.open(place.path, os.O_RDONLY | flags)
        try:
            return os.preadv(descriptor, [of_thread.memory[: last - first]], first)
        finally:
            os.close(descriptor)

    start = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            num_bytes = sum(pool.map(read, places))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise
    return num_bytes / (time.perf_counter() - start)


def _whole_pages(place: Place) -> tuple[int, int]:
    """Where the pages begin and end that are read for an image."""
    # Of small images in mapped files the engine lets the system read ahead: 128 KB around what it wants.
    unit = mmap.PAGESIZE if place.size >= _LEAST_PREFETCHED else _READ_AROUND
    first = place.offset // unit * unit
    return first, first + -(-(place.offset + place.size - first) // unit) * unit
