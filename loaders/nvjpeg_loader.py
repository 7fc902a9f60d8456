"""The `nvjpeg` backend: NVIDIA's nvJPEG decodes on a GPU, through torchvision: for those who cannot install DALI.

`EncodedBatches` reads JPEGs ahead. A thread decodes them on the GPU, whole images (with restart markers small JPEGs of
the crop alone), and resizes what the crops want of them there.

torchvision's decoder writes into memory that it takes from torch, in a stream of its own that waits for no other; on
an H100, nvJPEG does not wait for a stream either (pytorch/vision PR 9606, meta-pytorch/torchcodec PR 1634). So nothing
may still use that memory as the decoder is called. It is the memory of a stream in which nothing is ever queued:
whatever else reads an image is told to torch, which hands the memory out again only after that has been done.
"""

import functools
import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from loaders._epochs import PlannedEpochs, epoch_ended, loader_closed
from loaders.box_resize import box_resize
from loaders.call_width import CallWidth
from loaders.config import LoaderConfig
from loaders.contract import BadSample, BadSampleError, Batch
from loaders.cpus import num_threads
from loaders.crop import Crops
from loaders.encoded_batches import EncodedBatch, EncodedBatches
from loaders.errors import FastvitError, MissingPackageError, reason_of
from loaders.reads import ReaderThreads
from loaders.records import open_records
from loaders.uploads import upload

__all__ = ["NvjpegLoader"]

_POLL_SECONDS = 0.1

_GROUP_BYTES = 2**25
"""How many bytes of files are decoded before they are resized: their pixels take ten to thirty times as many."""


class _Made(NamedTuple):
    """A batch that the device works on."""

    batch: Batch
    bad: list[BadSample]
    """Those left out of it."""
    ready: torch.cuda.Event
    """Comes when the device is done with it."""


class NvjpegLoader(PlannedEpochs):
    """An `ImageLoader` over a `.beton` file, an ImageFolder or shards, whose batches are on `config.device`.

    Pixels differ from those of `native`: nvJPEG has an inverse DCT of its own, and repeats each colour of 4:2:0 instead
    of interpolating. What it refuses is decoded by us; damage that it does not report stays unseen.

    Raises:
        MissingPackageError: torchvision was built without nvJPEG.
        FastvitError: The device is not a CUDA device, the dataset is missing or damaged, or the config does not fit it.

    Examples:
        >>> from pathlib import Path
        >>> from loaders import LoaderConfig
        >>> from loaders.nvjpeg_loader import NvjpegLoader
        >>> config = LoaderConfig(batch_size=5, resolution=64, crop="random_resized", order="random", drop_last=False)
        >>> NvjpegLoader(Path("train.beton"), config)
        Traceback (most recent call last):
        loaders.errors.FastvitError: the nvjpeg backend decodes on a CUDA device, got device cpu; use another ...
    """

    def __init__(self, path: Path, config: LoaderConfig) -> None:
        device = _cuda_device(config)
        workers = num_threads(config.num_workers)
        records = open_records(path)
        super().__init__(config, num_samples=len(records.labels))
        self._labels = records.labels
        self._device = device
        self._iteration = 0
        self._decoder: _Decoder | None = _Decoder(device, batch_size=config.batch_size)
        self._source = EncodedBatches(records, num_workers=workers, splices=True)
        self._thread = ReaderThreads(1)
        weakref.finalize(self, self._thread.dismiss).atexit = False  # where nobody closes it

    def __iter__(self) -> Iterator[Batch]:
        self._iteration += 1
        if self._decoder is None:
            raise loader_closed()
        return self._batches(self._iteration)

    def _batches(self, iteration: int) -> Iterator[Batch]:
        self._decoder_of(iteration)
        config = self._config
        coming = self._source.epoch(self._planned(), config, self._epoch)

        def make() -> _Made | None:
            decoder = self._decoder_of(iteration)
            batch = next(coming, None)
            return None if batch is None else self._made(batch, decoder, config)

        pending = deque(self._thread.submit(make) for _ in range(config.prefetch_batches))
        while (made := self._result(pending.popleft(), iteration)) is not None:
            pending.append(self._thread.submit(make))
            batch = self._handed_over(made)
            self._decoder_of(iteration)  # another thread may have ended the epoch
            yield batch

    def _decoder_of(self, iteration: int) -> "_Decoder":
        if self._decoder is None or iteration != self._iteration:
            raise epoch_ended()
        return self._decoder

    def _made(self, batch: EncodedBatch, decoder: "_Decoder", config: LoaderConfig) -> _Made:
        """Have the device make a batch; runs in the loader's thread."""
        with torch.cuda.stream(decoder.stream):
            samples, images, bad = decoder.decode(batch, self._source, config)
            lost = {batch.samples[row]: sample for row, sample in self._source.lost_samples(batch).items()}
            if lost:
                good = np.array([sample not in lost for sample in samples], np.bool_)
                bad = [*bad, *(lost[sample] for sample in samples[~good])]
                samples, images = samples[good], images.index_select(0, upload(np.flatnonzero(good), self._device))
            indices = self._plan.images(samples)
            labels, index = upload(self._labels[indices], self._device), upload(indices, self._device)
            return _Made(Batch(images.permute(0, 3, 1, 2), labels, index), bad, decoder.stream.record_event())

    def _result(self, future: "Future[_Made | None]", iteration: int) -> _Made | None:
        while wait([future], _POLL_SECONDS).not_done:
            self._decoder_of(iteration)  # a closed thread leaves it undone
        return future.result()

    def _handed_over(self, made: _Made) -> Batch:
        """The batch, for the current stream: it waits there, and the memory is kept for what is queued there."""
        if made.bad and self._config.on_error == "raise":
            raise BadSampleError(made.bad[0])
        self.skipped.extend(made.bad)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(made.ready)
        for tensor in made.batch:
            tensor.record_stream(stream)
        return made.batch

    def at_work(self) -> list[tuple[str, float]]:
        """See `SaysWhatItReads.at_work`."""
        return self._source.at_work()

    def close(self) -> None:
        """End the threads and give the memory back; threads that wait for a read for seconds are left behind."""
        if self._decoder is not None:
            self._decoder = None
            self._source.close()
            self._thread.close()


class _Decoder:
    """nvJPEG and the resize, each in a stream of its own; used by one thread.

    Attributes:
        stream: The resize's, which is to be the current one while this is used.
    """

    def __init__(self, device: torch.device, *, batch_size: int) -> None:
        self._device = device
        self._width = CallWidth(batch_size)
        self._seconds = 0.0
        try:
            self._decoding, self.stream = _streams(device)
            with torch.cuda.stream(self.stream):
                self._call([encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))])
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
            reason = f"the nvjpeg backend decodes nothing on {device}: {reason_of(error)}"
            if "not compiled with" not in reason:
                raise FastvitError(f"{reason}; use another --data.backend") from error
            raise MissingPackageError(
                f"{reason}; install torch and torchvision for CUDA with: pip install --force-reinstall torch "
                "torchvision --index-url https://download.pytorch.org/whl/cu130"
            ) from error

    def decode(
        self, batch: EncodedBatch, source: EncodedBatches, config: LoaderConfig
    ) -> tuple[NDArray[np.int64], Tensor, list[BadSample]]:
        """A batch's good samples, their images, uint8 [b, resolution, resolution, 3], and its bad samples."""
        side = config.resolution
        samples, bad = [batch.samples[:0]], [*batch.bad]
        images = [torch.empty((0, side, side, 3), dtype=torch.uint8, device=self._device)]
        self._seconds, num_jpegs = 0.0, sum(image.ndim == 1 for image in batch.images)
        for calls in _groups(batch.images, self._width.width):
            made = [part for rows in calls for part in self._decoded(_rows_of(batch, rows), source)]
            parts, decoded = [part for part, _ in made], [image for _, images_of in made for image in images_of]
            samples.extend(part.samples for part in parts)
            bad.extend(sample for part in parts for sample in part.bad)
            if decoded:
                # All at once: as other matmuls round in another way, pixels would depend on the width of the calls.
                crops = Crops(
                    np.concatenate([part.boxes for part in parts]),
                    np.concatenate([part.flips for part in parts]),
                    np.concatenate([part.shifts for part in parts]),
                )
                windows = np.concatenate([part.windows for part in parts])
                images.append(
                    box_resize(decoded, crops, resolution=side, interpolation=config.interpolation, windows=windows)
                )
        if num_jpegs:
            self._width.took(self._seconds / num_jpegs)
        return np.concatenate(samples), torch.cat(images), bad

    def _decoded(self, part: EncodedBatch, source: EncodedBatches) -> Iterator[tuple[EncodedBatch, list[Tensor]]]:
        """Rows of a batch and their images, [3, h, w] each; in halves where one is refused, until that one is found."""
        try:
            decoded = iter(self._call([_tensor_of(image) for image in part.images if image.ndim == 1]))
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise torch.OutOfMemoryError(reason_of(error)) from error
            if middle := len(part.images) // 2:
                yield from self._decoded(_rows_of(part, slice(0, middle)), source)
                yield from self._decoded(_rows_of(part, slice(middle, None)), source)
            else:
                ours = source.decoded_by_us(part)
                yield ours, [self._planes(image) for image in ours.images]
        else:
            yield part, [next(decoded) if image.ndim == 1 else self._planes(image) for image in part.images]

    def _call(self, jpegs: list[Tensor]) -> list[Tensor]:
        """JPEGs as images on the device; what is queued next in `stream` may use them.

        Raises:
            FastvitError: torch fills memory that it hands out.
            RuntimeError: nvJPEG refuses one of them, or there is no memory.
        """
        if not jpegs:
            return []
        _check_that_memory_is_not_filled()
        with torch.cuda.stream(self._decoding):
            self._decoding.synchronize()  # nothing was queued by us: it could only be another user of the same stream
            begin = time.perf_counter()
            images: list[Tensor] = decode_jpeg(jpegs, ImageReadMode.RGB, device=self._device)
            self._seconds += time.perf_counter() - begin
        self.stream.wait_stream(self._decoding)
        for image in images:
            image.record_stream(self.stream)
        return images

    def _planes(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels [h, w, 3] as [3, h, w] on the device."""
        return upload(pixels.transpose(2, 0, 1).copy(), self._device)


class _Memory:
    """A read-only array's memory, said to be writable: torch warns of arrays that are not, and nobody writes to it."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array  # keeps the memory
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _tensor_of(file: NDArray[np.uint8]) -> Tensor:
    """A file's bytes as a tensor, where they lie."""
    return torch.from_numpy(np.asarray(_Memory(file)))


def _groups(images: list[NDArray[np.uint8]], width: int) -> Iterator[list[slice]]:
    """Runs of images of at most `_GROUP_BYTES`, but of one image at least, each in calls of at most `width` images."""
    ends = np.cumsum([image.nbytes for image in images])
    start = 0
    while start < len(images):
        limit = (ends[start - 1] if start else 0) + _GROUP_BYTES
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield [slice(row, min(row + width, stop)) for row in range(start, stop, width)]
        start = stop


def _rows_of(batch: EncodedBatch, rows: slice) -> EncodedBatch:
    """Some rows of a batch, without its bad samples."""
    return EncodedBatch(
        samples=batch.samples[rows],
        images=batch.images[rows],
        boxes=batch.boxes[rows],
        windows=batch.windows[rows],
        flips=batch.flips[rows],
        shifts=batch.shifts[rows],
        bad=[],
        lost_rows=list,
    )


def _cuda_device(config: LoaderConfig) -> torch.device:
    """The device, with its number.

    Raises:
        FastvitError: It is no CUDA device.
    """
    if config.device.type != "cuda":
        raise FastvitError(
            f"the nvjpeg backend decodes on a CUDA device, got device {config.device}; use another --data.backend"
        )
    return config.device if config.device.index is not None else torch.device("cuda", torch.cuda.current_device())


def _check_that_memory_is_not_filled() -> None:
    """Make sure that torch queues nothing for the memory that it gives to the decoder: it could come after the decoder.

    Raises:
        FastvitError: It fills it.
    """
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # torch's types have none
    if fills and torch.are_deterministic_algorithms_enabled():
        raise FastvitError(
            "torch.use_deterministic_algorithms has torch fill memory, maybe after nvJPEG has decoded into it; set "
            "torch.utils.deterministic.fill_uninitialized_memory = False, or use another backend than nvjpeg"
        )


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """The streams to decode and to resize in, always the same: memory that was freed is kept for its stream alone."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
