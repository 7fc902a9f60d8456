"""FFCV's epoch thread, file map and image decoder, changed as `loaders.ffcv_loader` describes; importing needs FFCV."""

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from queue import Empty
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from loaders._epochs import epoch_ended
from loaders.beton import ImageMode
from loaders.crop import Crops
from loaders.errors import MissingPackageError


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


try:
    with _torch_threads_kept():
        import numba
        from ffcv.fields.rgb_image import RGBImageField, SimpleRGBImageDecoder
        from ffcv.libffcv import imdecode, resize_crop
        from ffcv.loader import Loader
        from ffcv.loader import loader as loader_module
        from ffcv.loader.epoch_iterator import EpochIterator
        from ffcv.memory_managers import OSCacheManager
        from ffcv.pipeline.allocation_query import AllocationQuery
        from ffcv.pipeline.compiler import Compiler
        from ffcv.pipeline.state import State
        from ffcv.reader import Reader
except ImportError as error:
    raise MissingPackageError(
        f"the ffcv backend needs FFCV, which does not import here ({error}); install it with: "
        "apt-get install libopencv-dev libturbojpeg0-dev pkg-config && pip install 'fastvit[ffcv]'"
    ) from error

MAX_THREADS: int = numba.config.NUMBA_NUM_THREADS
_BATCHES_AHEAD = 3  # FFCV's own default


class Decoded(NamedTuple):
    """What FFCV's thread hands over for a batch."""

    indices: NDArray[np.int64]
    """int64 [b]."""
    crops: Crops
    images: NDArray[np.uint8]
    """uint8 [b, resolution, resolution, 3], a view of one of FFCV's slots."""
    good: NDArray[np.bool_]
    """bool [b]: whether FFCV's decoder was content; the pixels of the others mean nothing."""


class Decoder(SimpleRGBImageDecoder):  # type: ignore[misc]  # FFCV has no types
    """FFCV's image decoder, with crops handed in and a verdict on each image handed out."""

    resolution = 1
    """Side of the images of the epochs that begin from now on."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        """The batch slots: pixels, and whether they are good."""
        shape = (self.resolution, self.resolution, 3)
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype(np.uint8))
        return state, (AllocationQuery(shape, np.dtype(np.uint8)), AllocationQuery((), np.dtype(np.bool_)))

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV has Numba compile: a thin one, for the sake of later loaders in the same process."""
        decode_batch = _compiled_batch(parallel=Compiler.num_threads > 1)

        def decode(indices, slot, metadata, state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            return decode_batch(indices, slot, metadata, state)

        return decode


def build_loader(path: str, decoder: Decoder, *, batch_size: int, num_threads: int) -> Loader:
    """FFCV's Loader over the first image field of a file, the others left alone."""
    handlers = Reader(path).handlers
    images = next(name for name, field in handlers.items() if isinstance(field, RGBImageField))
    # The Loader's constructor names its memory manager itself: there is no other way to hand it ours.
    with _torch_threads_kept(), patch.object(loader_module, "OSCacheManager", _MappedFile):
        return Loader(
            path,
            batch_size=batch_size,
            num_workers=num_threads,
            os_cache=True,
            drop_last=False,
            batches_ahead=_BATCHES_AHEAD,
            pipelines={name: [decoder] if name == images else None for name in handlers},
        )


class _MappedFile(OSCacheManager):  # type: ignore[misc]
    """FFCV's memory map; the types in its reader's signature, which FFCV alters for all of Numba, are left to Numba."""

    def compile_reader(self) -> Callable[..., Any]:
        """The function that finds an image's bytes by their address."""
        compiled: Callable[..., Any] = Compiler.compile(_read)
        return compiled


class Epoch(EpochIterator):  # type: ignore[misc]
    """FFCV's thread over one epoch, which passes on what goes wrong in it and ends when it is told to."""

    storage_state: tuple[Any, ...]

    def __init__(
        self,
        loader: Loader,
        order: NDArray[np.int64],
        *,
        crops: Callable[[NDArray[np.int64]], Crops],
        scratch: NDArray[np.uint8],
    ) -> None:
        self._crops = crops
        self._scratch = scratch
        super().__init__(loader, order)  # starts the thread
        atexit.register(self.close)

    def run(self) -> None:
        """Make the batches: FFCV's loop without its deaf ends."""
        try:
            numba.set_num_threads(len(self._scratch))  # of this thread; FFCV would set torch's with it
            mapped_file = self.storage_state
            for number, indices in enumerate(self.iter_ixes):
                crops = self._crops(indices)
                # Numba would freeze a global array as it was at compile time, but this is an argument.
                self.storage_state = (*mapped_file, *crops, self._scratch)
                slot = number % (self.loader.batches_ahead + 2)
                ((images, good),) = self.run_pipeline(number, indices, slot, None)
                self.output_queue.put(Decoded(indices, crops, images, good))
                if self.terminate_event.is_set():
                    return
        except BaseException as error:
            self.output_queue.put(error)
        else:
            self.output_queue.put(None)

    def __next__(self) -> Decoded:
        alive = True
        while alive and not self.terminate_event.is_set():
            alive = self.is_alive()  # asked before looking for what the thread may have left behind
            with suppress(Empty):
                item = self.output_queue.get(timeout=1)
                if isinstance(item, Decoded):
                    return item
                if item is None:
                    raise StopIteration
                raise RuntimeError(f"FFCV's thread failed with {type(item).__name__}: {item}") from item
        raise epoch_ended()

    def close(self) -> None:
        """End the thread; a second call does nothing."""
        self.terminate_event.set()
        with suppress(Empty):
            while True:  # make room for a thread that waits to hand over a batch: at most two more items come
                self.output_queue.get_nowait()
        if self.is_alive() and self is not threading.current_thread():
            self.join()
        atexit.unregister(self.close)


def crop_and_resize(
    image: NDArray[np.uint8], box: NDArray[np.int32], *, flip: bool, shift: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """FFCV's area filter, outside compiled code: uint8 [h, w, 3] into uint8 [resolution, resolution, 3]."""
    top, left, height, width = box.tolist()
    resize_crop(image, top, top + height, left, left + width, out)
    if flip:
        _mirror(out)
    _move(out, shift)


@cache
def _compiled_batch(*, parallel: bool) -> Callable[..., Any]:
    """The function that decodes a batch; the `state` that it gets is FFCV's and what `Epoch` adds to it."""
    load = Compiler.compile(_one_image())
    batch_range = numba.prange if parallel else range

    def decode_batch(indices, slot, metadata, state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        images, good = slot
        boxes, flips, shifts, scratch = state[3:]
        for row in batch_range(len(indices)):
            own_scratch = scratch[numba.get_thread_id()]
            good[row] = load(
                metadata[indices[row]], boxes[row], flips[row], shifts[row], state[:3], own_scratch, images[row]
            )
        return images, good

    decode_batch.is_parallel = parallel  # type: ignore[attr-defined]
    compiled: Callable[..., Any] = Compiler.compile(decode_batch)
    return compiled


def _one_image() -> Callable[..., bool]:
    """The function that decodes and crops one image into `out` and tells whether it could; Numba compiles it."""
    read, jpeg_size = Compiler.compile(_read), Compiler.compile(_jpeg_size)
    mirror, move = Compiler.compile(_mirror), Compiler.compile(_move)
    decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)
    jpg = int(ImageMode.JPG)

    def load(field, box, flip, shift, storage, scratch, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        data = read(field["data_ptr"], storage)
        height, width = np.int64(field["height"]), np.int64(field["width"])
        if field["mode"] == jpg:
            if jpeg_size(data) != (height, width):
                return False
            pixels = scratch[: height * width].reshape(height, width, 3)
            if decode_jpeg(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False) != 0:
                return False
        else:
            if len(data) != 3 * height * width:
                return False
            pixels = data.reshape(height, width, 3)
        top, left = box[0], box[1]
        resize(pixels, top, top + box[2], left, left + box[3], out)
        if flip:
            mirror(out)
        if shift.any():
            move(out, shift)
        return True

    return load


def _read(address, storage):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """An image's bytes by their address in the file; Numba compiles it."""
    mapped_file, addresses, sizes = storage
    return mapped_file[address : address + sizes[np.searchsorted(addresses, address)]]


def _jpeg_size(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width in a JPEG's frame header, (0, 0) without one; Numba compiles it."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            return 256 * data[at + 5] + data[at + 6], 256 * data[at + 7] + data[at + 8]
        # Fill bytes may stand before a marker.
        at += 1 if marker == 0xFF else 2 + 256 * data[at + 2] + data[at + 3]
    return 0, 0


def _mirror(image: NDArray[np.uint8]) -> None:
    """Swap left and right in place; Numba compiles it."""
    height, width, num_channels = image.shape
    for row in range(height):
        for left in range(width // 2):
            for channel in range(num_channels):
                swapped = image[row, left, channel]
                image[row, left, channel] = image[row, width - 1 - left, channel]
                image[row, width - 1 - left, channel] = swapped


def _move(image: NDArray[np.uint8], shift: NDArray[np.int32]) -> None:
    """Move an image down and to the right, the border reflected; Numba compiles it."""
    height, width, num_channels = image.shape
    whole = image.copy()
    for row in range(height):
        from_row = height - 1 - abs(height - 1 - abs(row - shift[0]))
        for column in range(width):
            from_column = width - 1 - abs(width - 1 - abs(column - shift[1]))
            for channel in range(num_channels):
                image[row, column, channel] = whole[from_row, from_column, channel]
