"""The `dali` backend's pipeline: the graph, what it is fed with, and what to do when DALI refuses a batch."""

import warnings
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from loaders.config import LoaderConfig
from loaders.cpus import num_threads
from loaders.encoded_batches import EncodedBatch, EncodedEpoch
from loaders.errors import FastvitError, MissingPackageError, reason_of

try:
    from nvidia.dali import Pipeline, fn, types
    from nvidia.dali.data_node import DataNode
except ImportError as error:
    raise MissingPackageError(
        f"the dali backend needs NVIDIA DALI, which does not import here ({error}); install it with: "
        "pip install 'fastvit[dali]'"
    ) from error

# Of a batch, what the hardware engines decode. The rest would take threads of the CPU.
_HARDWARE_SHARE = 1.0
# What is preallocated for each image on a GPU, at most: 6 bytes a pixel, for each image of a batch. Larger ones only
# take an allocation when they come.
_MAX_SIDE_HINT = 640
_Given = tuple[list[NDArray[np.uint8]], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]
"""The images as files; top and left of the boxes, their height and width; where in them what is resized begins and
ends, from right to left to mirror it."""

_FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


class Decoder:
    """A DALI pipeline, and the batches that it is at.

    Raises:
        FastvitError: There is no GPU to decode on.
    """

    def __init__(self, config: LoaderConfig) -> None:
        if config.decode == "mixed" and not _is_gpu(config):
            raise FastvitError(
                f"decode mixed is on a GPU: device must be a CUDA device, got {config.device}; leave decode out"
            )
        self.config = config
        self.is_done = True
        """Whether nothing of an epoch is under way."""
        self._again: deque[EncodedBatch] = deque()
        """What comes before all others: a pipeline that is gone had taken it."""
        self._coming: EncodedEpoch | None = None
        """What comes then; None at the end of the epoch."""
        self._taken: deque[EncodedBatch] = deque()
        """What DALI has taken and not handed over yet."""
        self._pipeline: Pipeline | None = None
        self._made: deque[tuple[EncodedBatch, Tensor]] = deque()

    def begin(self, batches: EncodedEpoch, *, decoded_by_us: Callable[[EncodedBatch], EncodedBatch]) -> None:
        """Begin an epoch of these batches; those that DALI refuses are to be `decoded_by_us`."""
        self.is_done = False
        self._coming = batches
        self._decoded_by_us = decoded_by_us

    def next(self) -> tuple[EncodedBatch, Tensor] | None:
        """The next batch and its images, uint8 [b, resolution, resolution, 3]; None at the end of the epoch."""
        while not self._made and not self.is_done:
            self._run()
        return self._made.popleft() if self._made else None

    def _run(self) -> None:
        pipeline = self._pipeline = self._build() if self._pipeline is None else self._pipeline
        device = self.config.device
        try:
            while self._has_room():
                pipeline.schedule_run()
            # On a GPU the current stream waits for the batch, which is not freed before what this stream does with it.
            (images,) = pipeline.outputs(torch.cuda.current_stream(device) if _is_gpu(self.config) else None)
        except StopIteration:
            self._pass_on_empty_batches()
            pipeline.reset()
            self.is_done = True
        except RuntimeError as error:
            self._pass_on_empty_batches()
            self._start_again(error)
        else:
            self._pass_on_empty_batches()
            self._made.append((self._taken.popleft(), from_dlpack(images.as_tensor())))

    def _has_room(self) -> bool:
        """Whether DALI is to take another batch: what it has must not wait for one that is still being read."""
        under_way = sum(bool(batch.images) for batch in self._taken)
        if under_way >= self.config.prefetch_batches:
            return False
        return bool(self._again) or (self._coming is not None and (not under_way or self._coming.is_ready()))

    def _pass_on_empty_batches(self) -> None:
        """Those that come before the next one that DALI has: it takes none without images."""
        side = self.config.resolution
        while self._taken and not self._taken[0].images:
            empty = torch.empty((0, side, side, 3), dtype=torch.uint8, device=self.config.device)
            self._made.append((self._taken.popleft(), empty))

    def _start_again(self, error: RuntimeError) -> None:
        """Have the batch that DALI refused decoded by us, in a new pipeline: the old one is no longer valid.

        Raises:
            RuntimeError: There was no image in it for DALI to decode.
        """
        refused, *others = self._taken
        if all(image.ndim == 3 for image in refused.images):
            raise error
        again = self._decoded_by_us(refused)
        if len(again.bad) == len(refused.bad):
            warnings.warn(
                f"DALI decodes none of a batch of {len(refused.images)} images, without saying which one it refuses "
                f"({_reason(error)}), and fastvit's own decoder refuses none: it decodes them from now on, on the CPU",
                RuntimeWarning,
                stacklevel=2,
            )
        self._taken.clear()
        self._again.extendleft(reversed([again, *others]))
        self._pipeline = None

    def _build(self) -> Pipeline:
        # DALI's operators hold the source, and each other in a circle: it must not keep what we have.
        weak = weakref.proxy(self)
        return _graph(lambda: weak._take(), self.config, largest=self._largest_sides())

    def _take(self) -> _Given:
        """What DALI asks for when it takes another batch; it holds the arrays until they are decoded.

        Raises:
            StopIteration: There is none.
        """
        while (batch := self._next_encoded()) is not None:
            self._taken.append(batch)
            if batch.images:
                files = [image if image.ndim == 1 else _ppm(image) for image in batch.images]
                start, shape = np.ascontiguousarray(batch.boxes[:, :2]), np.ascontiguousarray(batch.boxes[:, 2:])
                return files, start, shape, *_ends(batch)
        raise StopIteration

    def _next_encoded(self) -> EncodedBatch | None:
        if self._again:
            return self._again.popleft()
        if self._coming is not None and (batch := next(self._coming, None)) is not None:
            return batch
        self._coming = None
        return None

    def _largest_sides(self) -> tuple[int, int]:
        """How high and wide the next batch's images are at least, up to `_MAX_SIDE_HINT`: as far as boxes reach."""
        if (first := self._next_encoded()) is None:
            return 1, 1
        self._again.appendleft(first)
        ends = (first.boxes[:, :2] + first.boxes[:, 2:]).max(0, initial=1).clip(max=_MAX_SIDE_HINT)
        return int(ends[0]), int(ends[1])


def _ends(batch: EncodedBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the windows begin and end, each float32 [b, 2]; those that are mirrored begin at the right."""
    begin = batch.windows[:, :2].astype(np.float32)
    end = (batch.windows[:, :2] + batch.windows[:, 2:]).astype(np.float32)
    begin[batch.flips, 1], end[batch.flips, 1] = end[batch.flips, 1], begin[batch.flips, 1]
    return begin, end


def _ppm(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [h, w, 3] as a file, so that one graph takes all."""
    height, width, _ = pixels.shape
    header = np.frombuffer(b"P6 %d %d 255\n" % (width, height), np.uint8)
    file = np.empty(len(header) + pixels.size, np.uint8)
    file[: len(header)] = header
    file[len(header) :].reshape(pixels.shape)[:] = pixels
    return file


def _is_gpu(config: LoaderConfig) -> bool:
    return config.device.type == "cuda"


def _graph(source: Callable[[], _Given], config: LoaderConfig, *, largest: tuple[int, int]) -> Pipeline:
    """What DALI does with a batch of `source`: decode, cut out, resize, mirror; on the GPU as far as there is one."""
    pipeline = Pipeline(
        batch_size=config.batch_size,
        num_threads=num_threads(config.num_workers),
        device_id=_device_id(config.device),
        prefetch_queue_depth=config.prefetch_batches,
        exec_dynamic=True,  # the other executor copies every batch
    )
    with pipeline:
        files, start, shape, begin, end = fn.external_source(
            source=source,  # type: ignore[arg-type, unused-ignore]  # DALI's types know no tuple
            num_outputs=5,
            no_copy=True,
            dtype=[types.UINT8, types.INT32, types.INT32, types.FLOAT, types.FLOAT],
            ndim=[1, 1, 1, 1, 1],
        )
        if _is_gpu(config) and config.decode != "cpu":
            images = _decoded_on_gpu(files, largest)
            images = fn.slice(images, start=start, shape=shape, axes=[0, 1])
        else:
            images = fn.decoders.image_slice(
                files, device="cpu", start=start, shape=shape, axes=[0, 1], adjust_orientation=False
            )
            images = images.gpu() if _is_gpu(config) else images
        size = (config.resolution, config.resolution)
        filter_ = _FILTERS[config.interpolation]
        pipeline.set_outputs(
            fn.resize(images, size=size, roi_start=begin, roi_end=end, interp_type=filter_, antialias=True)
        )
    pipeline.build()
    return pipeline


def _decoded_on_gpu(files: DataNode, largest: tuple[int, int]) -> DataNode:
    height, width = largest
    return fn.decoders.image(
        files,
        device="mixed",
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # as every decoder on a CPU does it
        hw_decoder_load=_HARDWARE_SHARE,
        preallocate_height_hint=height,
        preallocate_width_hint=width,
    )


def _device_id(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _reason(error: RuntimeError) -> str:
    """What is wrong: a page of text has it behind a word."""
    return reason_of(RuntimeError(str(error).rpartition("encountered:")[2]))
