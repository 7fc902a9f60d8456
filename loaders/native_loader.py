"""The `native` backend: our C++ engine over a `.beton` file, an ImageFolder, shards or a list of files.

Threads that live as long as the loader decode just the part of each JPEG that its crop needs, resize it while its rows
come out of the decoder, and write it into batches that are used again and again. Python only says which samples come
next. `loaders/native/` is the engine; its headers tell how each step works.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders import _native
from loaders._epochs import PlannedEpochs, bad_sample, epoch_ended, loader_closed
from loaders.config import LoaderConfig
from loaders.contract import BadSampleError, Batch
from loaders.cpus import num_threads
from loaders.image_files import ImageError
from loaders.reads import ReaderThreads, warn_of_stuck_reads
from loaders.records import open_records

__all__ = ["NativeLoader"]


class _Pending(NamedTuple):
    """A batch that the engine works on."""

    job: _native.BatchJob
    samples: NDArray[np.int64]
    images: Tensor
    """uint8 [batch_size, resolution, resolution, 3]."""
    rule: _native.CropRule


class NativeLoader(PlannedEpochs):
    """An `ImageLoader` over a `.beton` file, an ImageFolder, shards or a list of image files (without labels).

    What is no JPEG (the PNG files that some folders hold) is decoded whole by Pillow, in as many threads. Damage
    outside the part of a JPEG that a crop needs goes unseen.

    Raises:
        FastvitError: The dataset is missing or damaged, or the config does not fit it.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.native_loader import NativeLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> loader = NativeLoader(Path("train.beton"), config)
        >>> [tuple(batch.images.shape) for batch in loader]
        [(5, 3, 64, 64), (5, 3, 64, 64)]
        >>> loader.close()
    """

    def __init__(self, path: Path | Sequence[Path], config: LoaderConfig) -> None:
        if not _native.uses_own_huffman_decoder:
            # Without stacklevel, so that the warning is always of this line and is shown once.
            warnings.warn(  # noqa: B028
                f"fastvit was built with {_native.built_with_libjpeg} and found {_native.loaded_libjpeg}, whose inside "
                "differs: JPEGs are decoded by that library alone, which takes about 1.5 times as long; build fastvit "
                "again, with the libjpeg-turbo that it will run with",
                RuntimeWarning,
            )
        self._records = open_records(path)
        self._labels = torch.from_numpy(self._records.labels)
        super().__init__(config, num_samples=len(self._labels))
        self._slots: list[Tensor] = []
        self._iteration = 0
        self._engine: _native.Engine | None = _native.Engine(
            self._records.native(),
            num_threads=num_threads(config.num_workers),
            scaled_decode=config.scaled_decode,
        )

    def __iter__(self) -> Iterator[Batch]:
        self._iteration += 1
        self._cancel()  # what an iterator that was left behind had asked for
        if self._engine is None:
            raise loader_closed()
        return self._batches(self._iteration)

    def _batches(self, iteration: int) -> Iterator[Batch]:
        rule = self._config.crop_rule(self._epoch)
        free = deque(self._memory())
        pending: deque[_Pending] = deque()
        requests = self._planned()
        try:
            while True:
                engine = self._engine_of(iteration)
                while free and (samples := next(requests, None)) is not None:
                    images = free.popleft()
                    try:
                        job = engine.submit(samples, rule, images.numpy()[: len(samples)])
                    except RuntimeError:
                        self._engine_of(iteration)  # another thread may have closed it meanwhile, which this says
                        raise
                    pending.append(_Pending(job, samples, images, rule))
                if not pending:
                    return
                batch = self._finished(pending[0])
                self._engine_of(iteration)  # another thread may have ended the epoch, and the batch with it
                yield batch
                free.append(pending.popleft().images)  # not earlier: the consumer had this memory until now
        finally:
            if iteration == self._iteration:
                self._cancel()

    def _engine_of(self, iteration: int) -> _native.Engine:
        if self._engine is None or iteration != self._iteration:
            raise epoch_ended()
        return self._engine

    def _memory(self) -> list[Tensor]:
        """The slots: one that the consumer holds and those that are made ahead of it."""
        config = self._config
        shape = (config.batch_size, config.resolution, config.resolution, 3)
        if not self._slots or self._slots[0].shape != shape:
            pinned = config.device.type == "cuda"
            self._slots = [
                torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(1 + config.prefetch_batches)
            ]
        return self._slots

    def _finished(self, pending: _Pending) -> Batch:
        """Wait for a batch and see to the samples that the engine could not make."""
        indices, images = self._plan.images(pending.samples), pending.images[: len(pending.samples)]
        failures = pending.job.wait()
        errors: dict[int, Exception] = {row: ImageError(reason) for row, foreign, reason in failures if not foreign}
        for row, made in self._foreign_images([row for row, foreign, _ in failures if foreign], pending):
            if isinstance(made, Exception):
                errors[row] = made
            else:
                images[row] = torch.from_numpy(made)
        bad = {row: bad_sample(self._records, int(indices[row]), errors[row]) for row in sorted(errors)}
        if bad and self._config.on_error == "raise":
            raise BadSampleError(next(iter(bad.values())))
        self.skipped.extend(bad.values())
        index = torch.from_numpy(indices)
        if bad:
            good = torch.tensor([row not in bad for row in range(len(indices))])
            images, index = images[good], index[good]
        return Batch(images.permute(0, 3, 1, 2), self._labels[index], index)

    def _foreign_images(
        self, rows: list[int], pending: _Pending
    ) -> Iterator[tuple[int, NDArray[np.uint8] | OSError | ImageError]]:
        """Those rows of a batch whose images are no JPEGs, or why there are none."""
        if not rows:
            return
        numbers = self._plan.images(pending.samples)

        def make(row: int) -> NDArray[np.uint8] | OSError | ImageError:
            index = int(numbers[row])
            threads.at(partial(self._records.name, index))
            try:
                image = self._records.decode(index, exif_orientation=self._config.exif_orientation)
            except (OSError, ImageError) as error:
                return error
            return _native.crop_pixels(image.permute(1, 2, 0).numpy(), int(pending.samples[row]), pending.rule)

        threads = ReaderThreads(num_threads(self._config.num_workers))
        try:
            futures = [threads.submit(partial(make, row)) for row in rows]
            for row, future in zip(rows, futures, strict=True):
                yield row, future.result()
        finally:
            # One that still reads writes to nothing of ours.
            warn_of_stuck_reads(threads.close(), "the loader's threads")

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work`."""
        records = [] if self._engine is None else self._engine.at_work()
        return [(self._records.name(record), seconds) for record, seconds in records]

    def close(self) -> None:
        """End the threads and give the memory back; threads that wait for a read for seconds are left behind."""
        engine, self._engine, self._slots = self._engine, None, []
        if engine is not None:
            self._warn_of(engine.close())

    def _cancel(self) -> None:
        """Give up the batches that were asked for; the loader is closed where a read does not come back."""
        if self._engine is not None and (stuck := self._engine.cancel()):
            self._engine, self._slots = None, []
            self._warn_of(stuck)

    def _warn_of(self, stuck: list[int]) -> None:
        warn_of_stuck_reads([self._records.name(record) for record in stuck], "the loader's threads")
