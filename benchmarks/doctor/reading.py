"""How fast the images of a data set come from where they lie: the page cache, or the disk behind it."""

import ctypes
import mmap
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.doctor.sample import DataSet, Place, draw, place_of
from loaders.order import RUN_LENGTH

__all__ = ["Reading", "probe_reading", "resident_fraction"]

_WARM = 0.95
"""A data set of which the page cache has more is read from there: the few other pages tell nothing of the disk."""
_IMAGES_AHEAD = 512
"""About what `native` asks the system for ahead of its threads: two batches."""
_NUM_RUNS = 8
_MOST_IMAGES = 2048

_libc = ctypes.CDLL(None)


class Reading(NamedTuple):
    """What reading the data set costs."""

    cached_fraction: float
    """The share of its pages that the page cache has, as far as the system tells."""
    page_cache_bytes_per_second: float
    random_bytes_per_second: float | None
    """From the disk, images in random order; None where the page cache has nearly all of them."""
    runs_bytes_per_second: float | None
    """The same of runs of neighbours, as `quasi_random` order reads them."""


def probe_reading(data_set: DataSet, *, num_threads: int, seconds: float) -> Reading:
    """Read some images as the loader does, without putting anything else out of the page cache.

    Args:
        data_set: What is to be read.
        num_threads: The loader's.
        seconds: How long it may take, about.
    """
    places = [place_of(sample) for sample in draw(data_set, _MOST_IMAGES)]
    random.Random(1).shuffle(places)
    cached, cold = resident_fraction(places), []
    random_rate = runs_rate = None
    if cached < _WARM:
        cold = [place for place in places if resident_fraction([place]) < _WARM]
        random_rate = _bytes_per_second(cold, data_set, num_threads=num_threads, seconds=seconds / 3)
        runs_rate = _bytes_per_second(_runs(data_set), data_set, num_threads=num_threads, seconds=seconds / 3)
    # What was just read is in the page cache now.
    warm = [place for place in places if resident_fraction([place]) >= _WARM] or places[:1]
    warm_rate = _bytes_per_second(warm, data_set, num_threads=num_threads, seconds=seconds / 3)
    return Reading(cached, warm_rate, random_rate, runs_rate)


def resident_fraction(places: Iterable[Place]) -> float:
    """The share of these pages that the page cache has; 1 where the system does not tell, as of files of others."""
    num_resident = num_pages = 0
    by_file: defaultdict[Path, list[Place]] = defaultdict(list)
    for place in places:
        by_file[place.path].append(place)
    for path, parts in by_file.items():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for _, offset, size in parts:
                pages = _resident_pages(mapped, offset, size)
                num_resident += int(pages.sum())
                num_pages += len(pages)
    return num_resident / num_pages if num_pages else 1.0


def _resident_pages(mapped: mmap.mmap, offset: int, size: int) -> NDArray[np.uint8]:
    """1 for each page of a part of a mapped file that is in memory, else 0."""
    first = offset // mmap.PAGESIZE * mmap.PAGESIZE
    pages = np.zeros(-(-(offset + size - first) // mmap.PAGESIZE), np.uint8)
    address = np.frombuffer(mapped, np.uint8).ctypes.data + first
    if _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(offset + size - first), ctypes.c_void_p(pages.ctypes.data)):
        return np.ones_like(pages)
    return pages & 1


def _runs(data_set: DataSet) -> list[Place]:
    """Images in runs of neighbours, as `quasi_random` order has them."""
    total = len(data_set.images)
    starts = random.Random(2).sample(range(0, max(1, total - RUN_LENGTH)), min(_NUM_RUNS, max(1, total - RUN_LENGTH)))
    return [
        place_of(data_set.images[index])
        for start in starts
        for index in range(start, min(start + RUN_LENGTH, total))
    ]


def _bytes_per_second(places: Sequence[Place], data_set: DataSet, *, num_threads: int, seconds: float) -> float:
    """Read until the time is up: mapped files with the system told what comes next, files in threads that wait."""
    with ExitStack() as stack:
        descriptors = {
            path: _opened(path, stack) for path in {place.path for place in places if data_set.is_mapped}
        }
        start = time.perf_counter()
        end = start + seconds

        def read(number: int) -> int:
            if time.perf_counter() > end:
                return 0
            path, offset, size = places[number]
            if not data_set.is_mapped:
                return len(path.read_bytes())
            for ahead in places[number + _IMAGES_AHEAD : number + _IMAGES_AHEAD + 1]:
                _advise(descriptors, ahead)
            return len(os.pread(descriptors[path], size, offset))

        for place in places[:_IMAGES_AHEAD] if data_set.is_mapped else ():
            _advise(descriptors, place)
        with ThreadPoolExecutor(num_threads) as pool:
            num_bytes = sum(pool.map(read, range(len(places))))
        return num_bytes / (time.perf_counter() - start)


def _opened(path: Path, stack: ExitStack) -> int:
    return stack.enter_context(path.open("rb", buffering=0)).fileno()


def _advise(descriptors: dict[Path, int], place: Place) -> None:
    os.posix_fadvise(descriptors[place.path], place.offset, place.size, os.POSIX_FADV_WILLNEED)
