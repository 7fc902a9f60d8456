"""A job's samples encoded on many threads: they come out in their own order, few of them in memory at a time.

What each sample became is a line of the record list, from which an interrupted conversion goes on.
"""

import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders.beton import MAX_SIDE
from loaders.errors import FastvitError, reason_of
from loaders.reads import ReaderThreads, warn_of_stuck_reads
from tools.convert.encode_image import ImageEncoder, StoredImage
from tools.convert.options import OnError
from tools.listings.record_list import RecordLine, SkippedLine
from tools.sources.sample import ImageSample

__all__ = ["ConversionError", "Encoded", "encode_all"]

# Handing samples to threads one by one would cost as much as copying a JPEG.
_SAMPLES_PER_TASK = 8
# So many wait per thread: enough that none stands still while a slow image holds up the order, few enough for memory.
_TASKS_PER_WORKER = 3


class Encoded(NamedTuple):
    """What became of a sample."""

    line: RecordLine | SkippedLine
    data: bytes
    """What to store; nothing where it was skipped."""


class ConversionError(FastvitError):
    """A sample cannot be converted; the message names it."""


def encode_all(
    samples: Iterator[ImageSample], encoder: ImageEncoder, *, max_bytes: int, num_workers: int, on_error: OnError
) -> Generator[Encoded, None, None]:
    """Load and encode samples on a pool of threads; they come out in their own order. Few are in memory at a time.

    An image that takes more than `max_bytes` cannot be converted.

    Raises:
        ConversionError: A sample cannot be converted, with `on_error` "stop".
    """

    def encode_some(some: Sequence[ImageSample]) -> list[Encoded]:
        data = [_load(sample, pool) for sample in some]
        images = iter(
            encoder.encode_all(
                [(one, sample.name) for one, sample in zip(data, some, strict=True) if not isinstance(one, Exception)]
            )
        )
        results = [one if isinstance(one, Exception) else _limited(next(images), max_bytes) for one in data]
        return [_encoded(sample, result, on_error) for sample, result in zip(some, results, strict=True)]

    pool = ReaderThreads(num_workers)
    tasks: deque[Future[list[Encoded]]] = deque()
    try:
        while some := [sample for _, sample in zip(range(_SAMPLES_PER_TASK), samples, strict=False)]:
            tasks.append(pool.submit(partial(encode_some, some)))
            if len(tasks) > _TASKS_PER_WORKER * num_workers:
                yield from tasks.popleft().result()
        while tasks:
            yield from tasks.popleft().result()
    finally:  # also where the caller stops early: Ctrl-C must wait neither for what is queued nor for a dead disk
        warn_of_stuck_reads(pool.close(), "the converter's threads")


def _load(sample: ImageSample, threads: ReaderThreads) -> bytes | NDArray[np.uint8] | ValueError | OSError:
    threads.at(partial(str, sample))
    try:
        return sample.load()
    except (ValueError, OSError) as error:
        return error


def _limited(image: StoredImage | Exception, max_bytes: int) -> StoredImage | Exception:
    if isinstance(image, Exception):
        return image
    num_bytes = len(image.data) if isinstance(image.data, bytes) else image.data.nbytes
    if num_bytes <= max_bytes and max(image.height, image.width) <= MAX_SIDE:
        return image
    return FastvitError(
        f"{image.width:,} x {image.height:,} pixels, {num_bytes:,} bytes as {image.format}, are more than the "
        f"{MAX_SIDE:,} a side and {max_bytes:,} bytes that can be stored (--max-side makes it smaller)"
    )


def _encoded(sample: ImageSample, image: StoredImage | Exception, on_error: OnError) -> Encoded:
    if isinstance(image, Exception):
        reason = reason_of(image)
        if on_error == "stop":
            raise ConversionError(
                f"{sample} cannot be converted: {reason}; fix or remove it, or leave such images out with "
                "--on-error skip"
            ) from image
        return Encoded(SkippedLine(sample.label, reason, sample.name), b"")
    data = image.data if isinstance(image.data, bytes) else image.data.tobytes()
    line = RecordLine(
        zlib.crc32(data),
        len(data),
        image.format,
        image.height,
        image.width,
        sample.label,
        image.treatment,
        sample.name,
    )
    return Encoded(line, data)
