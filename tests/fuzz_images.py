"""Damaged image files of every format through `decode_image`, which gives pixels or a reason in one line for each.

    fuzz_images.py NUM_FILES    prints how many of each format were decoded and refused; the
                                file with which anything else happened is kept in build/fuzz_images

Each is decoded twice, with the memory that it asks for filled differently: what comes out must be the same.
"""

import ctypes
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from fuzzing import Verdict, fuzz
from image_samples import SAMPLES, damaged
from loaders.image_files import ImageError, decode_image

_M_PERTURB = -6
"""Of glibc's malloc.h: the value with which memory is filled that is handed out, inverted, and taken back."""
Decode = Callable[[bytes], NDArray[np.uint8]]


class NeitherError(Exception):
    """Neither pixels nor a reason for which a file may be refused."""


def sample(number: int) -> tuple[str, bytes]:
    """The name of a kind and a file of it: each as it is, then damaged."""
    name = list(SAMPLES)[number % len(SAMPLES)]
    data = SAMPLES[name]()
    return name, data if number < len(SAMPLES) else damaged(data, Random(number))


class Check:
    """What `decode` makes of the file of a number: "decoded", or why it was refused."""

    def __init__(self, decode: Decode = decode_image) -> None:
        self._decode = decode
        self._libc = ctypes.CDLL(None)

    def __call__(self, number: int) -> str:
        _, data = sample(number)
        first, second = (self._outcome(data, fill) for fill in (0x55, 0xAA))
        if number < len(SAMPLES) and isinstance(first, str):
            raise NeitherError(f"a sound file is refused: {first}")
        if isinstance(first, str) or isinstance(second, str):
            if not (isinstance(first, str) and first == second):
                raise NeitherError(f"{first!r:.100}, then {second!r:.100}")
            return first
        if not np.array_equal(first, second):
            raise NeitherError("its pixels depend on what was in memory before")
        return "decoded"

    def _outcome(self, data: bytes, fill: int) -> NDArray[np.uint8] | str:
        self._libc.mallopt(_M_PERTURB, fill)
        try:
            pixels = self._decode(data)
        except ImageError as error:
            reason = str(error)
            if not reason or not reason.isprintable() or isinstance(error.__cause__, MemoryError):
                raise NeitherError(f"the reason is {reason!r}") from error
            return reason
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise NeitherError(f"pixels of shape {pixels.shape} and type {pixels.dtype}")
        return pixels


def keep(verdict: Verdict, folder: Path) -> Path:
    """Write down the file that a fault is about."""
    name, data = sample(verdict.number)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{verdict.number}-{name.replace(' ', '_')}"
    path.write_bytes(data)
    return path


def main(num_files: int, folder: Path = Path("build/fuzz_images"), decode: Decode = decode_image) -> int:
    """Check so many files and keep the bad ones in `folder`; returns how many faults there are."""
    warnings.simplefilter("ignore")  # Pillow's, of what it makes of damage
    counts: Counter[tuple[str, str]] = Counter()
    for verdict in fuzz(Check(decode), range(num_files)):
        file_format = sample(verdict.number)[0].split()[0]
        kind = "fault" if verdict.is_fault else "decoded" if verdict.outcome == "decoded" else "refused"
        counts[file_format, kind] += 1
        if verdict.is_fault:
            print(f"{keep(verdict, folder)}: {verdict.outcome}", flush=True)
    for file_format in dict.fromkeys(name.split()[0] for name in SAMPLES):
        numbers = {kind: counts[file_format, kind] for kind in ("decoded", "refused", "fault")}
        print(f"{file_format}: {numbers['decoded']} decoded, {numbers['refused']} refused, {numbers['fault']} faults")
    return sum(count for (_, kind), count in counts.items() if kind == "fault")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])) > 0)
