"""Batches as files' bytes, for decoders that are not ours: our order, our crops, and what is bad already left out.

Threads read a few batches ahead, off the thread that asks for them, so that cold reads and slow opens overlap. Of a
JPEG they hand over the bytes, where they lie in the mapped file or with just those restart segments that the crop
touches (`splices`), and the box in it. Of what other decoders do differently, or refuse, our decoder makes pixels:
other formats, CMYK, files without an end. Damage inside of a JPEG that its decoder does not report stays unseen.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders._epochs import bad_sample, epoch_ended
from loaders.config import LoaderConfig
from loaders.contract import BadSample
from loaders.image_files import ImageError
from loaders.reads import ReaderThreads, warn_of_stuck_reads
from loaders.records import ImageRecords

__all__ = ["EncodedBatch", "EncodedBatches", "EncodedEpoch"]

_POLL_SECONDS = 0.1
_NOTHING = np.empty(0, np.uint8)


class _Part(NamedTuple):
    """Some rows of a batch, as one thread makes them."""

    samples: NDArray[np.int64]
    images: list[NDArray[np.uint8] | BadSample]
    boxes: NDArray[np.int32]
    windows: NDArray[np.float64]
    flips: NDArray[np.bool_]
    shifts: NDArray[np.int32]
    cut_rows: Callable[[], list[int]]
    """Which rows' files have become shorter since."""


class EncodedBatch(NamedTuple):
    r"""What a decoder needs of a batch, without the samples that are `bad`.

    Examples:
        >>> from contextlib import closing
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.encoded_batches import EncodedBatches
        >>> from loaders.records import open_records
        >>> config = LoaderConfig(batch_size=4, resolution=64, crop="center", order="sequential", drop_last=True)
        >>> with closing(EncodedBatches(open_records(Path("photos")), num_workers=2, splices=False)) as batches:
        ...     batch = next(batches.epoch(config.plan(10).batches(0), config, 0))
        >>> batch.samples.tolist(), batch.images[0][:2].tobytes(), batch.boxes[0].tolist()
        ([0, 1, 2, 3], b'\xff\xd8', [6, 26, 107, 107])
    """

    samples: NDArray[np.int64]
    """int64 [b], as `BatchPlan.batches` gives them."""
    images: list[NDArray[np.uint8]]
    """For each row the bytes of a JPEG [n], read-only, or the pixels [h, w, 3] that its box holds."""
    boxes: NDArray[np.int32]
    """int32 [b, 4]: top, left, height, width, in the pixels of `images`: all that the resize's filter sees."""
    windows: NDArray[np.float64]
    """float64 [b, 4]: top, left, height, width, in the pixels of the box: what becomes the image handed over. That is
    all of the box, but with `center`, which is cut out of a resized image: it ends between pixels."""
    flips: NDArray[np.bool_]
    """bool [b]: whether to mirror what the box holds left to right."""
    shifts: NDArray[np.int32]
    """int32 [b, 2]: how many pixels the finished image moves down and to the right."""
    bad: list[BadSample]
    """Those left out."""
    lost_rows: Callable[[], list[int]]
    """Asked once the images are decoded: rows whose file has become shorter since, whose bytes may have been zeros."""


class _Work(NamedTuple):
    """An epoch that batches are made for."""

    config: LoaderConfig
    rule: _native.CropRule


_Pending = list[Future[_Part]]


class EncodedEpoch(Iterator[EncodedBatch]):
    """The batches of one epoch: what `EncodedBatches.epoch` gives.

    Examples:
        >>> from contextlib import closing
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.encoded_batches import EncodedBatches
        >>> from loaders.records import open_records
        >>> config = LoaderConfig(batch_size=4, resolution=64, crop="center", order="sequential", drop_last=True)
        >>> with closing(EncodedBatches(open_records(Path("photos")), num_workers=2, splices=False)) as batches:
        ...     epoch = batches.epoch(config.plan(10).batches(0), config, 0)
        ...     [len(batch.images) for batch in epoch], epoch.is_ready()
        ([4, 4], True)
    """

    def __init__(
        self,
        requests: Iterator[NDArray[np.int64]],
        *,
        num_ahead: int,
        submit: Callable[[NDArray[np.int64]], _Pending],
        results: Callable[[_Pending], list[_Part]],
    ) -> None:
        self._requests, self._num_ahead = requests, num_ahead
        self._submit, self._results = submit, results
        self._pending: deque[_Pending] = deque()

    def is_ready(self) -> bool:
        """Whether the next batch, or the end, comes without waiting for a read."""
        self._read_ahead()
        return not self._pending or all(part.done() for part in self._pending[0])

    def __next__(self) -> EncodedBatch:
        self._read_ahead()
        if not self._pending:
            raise StopIteration
        return _joined(self._results(self._pending.popleft()))

    def _read_ahead(self) -> None:
        while len(self._pending) <= self._num_ahead and (samples := next(self._requests, None)) is not None:
            self._pending.append(self._submit(samples))


_Make = Callable[[NDArray[np.int64], _Work], _Part]


class EncodedBatches:
    """Makes `EncodedBatch`es of a data set, epoch by epoch, until it is closed.

    Args:
        records: The data set.
        num_workers: Threads that read.
        splices: Make small JPEGs of what a crop touches, where a JPEG's restart markers allow it.

    Examples:
        The batches of one epoch, whose decoder refuses the second one:

        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.encoded_batches import EncodedBatches
        >>> from loaders.records import open_records
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="whole", order="sequential", drop_last=False)
        >>> batches = EncodedBatches(open_records(Path("damaged.beton")), num_workers=2, splices=False)
        >>> _, second = batches.epoch(config.plan(10).batches(0), config, 0)
        >>> ours = batches.decoded_by_us(second)
        >>> [image.shape for image in ours.images], [sample.index for sample in ours.bad]
        ([(120, 160, 3), (120, 160, 3), (120, 160, 3), (120, 160, 3)], [9])
        >>> batches.close()
    """

    def __init__(self, records: ImageRecords, *, num_workers: int, splices: bool) -> None:
        self._records, self._native = records, records.native()
        self._size = len(records.labels)
        self._splices = splices
        self._refused: set[int] = set()
        """The JPEGs that the decoder refuses."""
        self._num_workers = num_workers
        self._threads: ReaderThreads | None = ReaderThreads(num_workers)
        self._work: _Work | None = None
        weakref.finalize(self, self._threads.dismiss).atexit = False  # where nobody closes it

    def epoch(self, requests: Iterable[NDArray[np.int64]], config: LoaderConfig, epoch: int) -> EncodedEpoch:
        """The batches of these samples, in this order; an epoch that still runs is ended.

        Raises:
            FastvitError: While iterating: it is closed, or another epoch has begun.
        """
        work = self._work = _Work(config, config.crop_rule(epoch))
        return EncodedEpoch(
            iter(requests),
            num_ahead=config.prefetch_batches,
            submit=lambda samples: self._submit(samples, work, self._encoded),
            results=lambda futures: self._results(futures, work),
        )

    def decoded_by_us(self, batch: EncodedBatch) -> EncodedBatch:
        """The same batch in pixels of our decoder, for a decoder that refused it without saying which image it was.

        Those that our decoder refuses as well are `bad`. They, or all of the batch's where there are none, are decoded
        by us from now on, so that later epochs need not fail again.
        """
        if (work := self._work) is None:
            raise epoch_ended()
        made = _joined(self._results(self._submit(batch.samples, work, self._decoded), work))
        encoded = [sample for sample, image in zip(batch.samples, batch.images, strict=True) if image.ndim == 1]
        self._refused.update([bad.index for bad in made.bad] or [int(sample) % self._size for sample in encoded])
        return made._replace(bad=[*batch.bad, *made.bad])

    def lost_samples(self, batch: EncodedBatch) -> dict[int, BadSample]:
        """By row: the samples whose file has become shorter since; to be asked once the batch is decoded."""
        return {row: self._bad(batch.samples[row], OSError(_native.cut_short)) for row in batch.lost_rows()}

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work`."""
        return [] if self._threads is None else self._threads.at_work()

    def close(self) -> None:
        """End the threads; those that wait for a read for seconds are left behind."""
        threads, self._threads, self._work = self._threads, None, None
        if threads is not None:
            warn_of_stuck_reads(threads.close(), "the loader's threads")

    def _submit(self, samples: NDArray[np.int64], work: _Work, make: _Make) -> _Pending:
        threads = self._threads_of(work)
        parts = np.array_split(samples, min(self._num_workers, len(samples)))
        return [threads.submit(partial(make, part, work)) for part in parts]

    def _results(self, futures: _Pending, work: _Work) -> list[_Part]:
        self._threads_of(work)
        while wait(futures, _POLL_SECONDS).not_done:
            self._threads_of(work)  # those that are closed leave some undone
        return [future.result() for future in futures]

    def _threads_of(self, work: _Work) -> ReaderThreads:
        if self._threads is None or work is not self._work:
            raise epoch_ended()
        return self._threads

    def _encoded(self, samples: NDArray[np.int64], work: _Work) -> _Part:
        """Files' bytes where another decoder may have them; runs in a thread."""
        at = samples[:1].copy()
        self._threads_of(work).at(lambda: self._name(at[0]))
        crops = _native.encoded_crops(self._native, samples, work.rule, splices=self._splices, at=at)
        ours = {row for row, sample in enumerate(samples.tolist()) if sample % self._size in self._refused}
        part = _Part(
            samples,
            [_cut_out(image, box) for image, box in zip(crops.images, crops.boxes, strict=True)],
            crops.boxes,
            crops.windows,
            crops.flips,
            crops.shifts,
            lambda: [row for row in crops.cut_rows() if row not in ours],
        )
        for row, foreign, reason in crops.failures:
            if foreign:
                ours.add(row)
            else:
                part.images[row] = self._bad(samples[row], ImageError(reason))
        for row in sorted(ours):
            self._decode(part, row, work)
        return part

    def _decoded(self, samples: NDArray[np.int64], work: _Work) -> _Part:
        """Pixels of our decoder; runs in a thread."""
        size = len(samples)
        boxes, windows = np.zeros((size, 4), np.int32), np.zeros((size, 4))
        flips, shifts = np.zeros(size, np.bool_), np.zeros((size, 2), np.int32)
        part = _Part(samples, [_NOTHING] * size, boxes, windows, flips, shifts, list)
        for row in range(size):
            self._decode(part, row, work)
        return part

    def _decode(self, part: _Part, row: int, work: _Work) -> None:
        sample = part.samples[row]
        self._threads_of(work).at(partial(self._name, sample))
        try:
            image = self._records.decode(
                int(sample) % self._size, exif_orientation=work.config.exif_orientation
            ).permute(1, 2, 0)
        except (OSError, ImageError) as error:
            part.images[row] = self._bad(sample, error)
            return
        height, width, _ = image.shape
        crop = _native.crop_of_image(int(sample), height, width, work.rule)
        part.boxes[row], part.windows[row], part.flips[row], part.shifts[row] = (of[0] for of in crop)
        part.images[row] = _cut_out(image.numpy(), part.boxes[row])

    def _name(self, sample: np.int64) -> str:
        return self._records.name(int(sample) % self._size)

    def _bad(self, sample: np.int64, error: Exception) -> BadSample:
        return bad_sample(self._records, int(sample) % self._size, error)


def _cut_out(image: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.uint8]:
    """What a box of pixels holds, and the box in that; a file's bytes as they are."""
    if image.ndim == 1:
        return image
    top, left, height, width = box.tolist()
    box[:2] = 0
    return image[top : top + height, left : left + width]


def _joined(parts: Sequence[_Part]) -> EncodedBatch:
    images = [image for part in parts for image in part.images]
    good = np.array([row for row, image in enumerate(images) if not isinstance(image, BadSample)], np.intp)
    starts = np.cumsum([0, *(len(part.samples) for part in parts)]).tolist()

    def lost_rows() -> list[int]:
        lost = [start + row for start, part in zip(starts, parts, strict=False) for row in part.cut_rows()]
        return np.flatnonzero(np.isin(good, lost)).tolist() if lost else []

    return EncodedBatch(
        samples=np.concatenate([part.samples for part in parts])[good],
        images=[image for image in images if not isinstance(image, BadSample)],
        boxes=np.concatenate([part.boxes for part in parts])[good],
        windows=np.concatenate([part.windows for part in parts])[good],
        flips=np.concatenate([part.flips for part in parts])[good],
        shifts=np.concatenate([part.shifts for part in parts])[good],
        bad=[image for image in images if isinstance(image, BadSample)],
        lost_rows=lost_rows,
    )
