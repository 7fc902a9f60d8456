"""Stage `corruption`: does a decoder write into memory that queued work still reads?

The engines that decode JPEGs on an H100 write when they are called, whatever is queued before that on the stream that
they are given (found in pytorch/vision pull request 9606 and meta-pytorch/torchcodec pull request 1634). So memory that
was freed in the order of a stream, while work on it is still queued, must not reach them.

Each step queues matmuls, behind them what reads the last batch and some other tensors, frees all of these and asks for
the next batch. The batch and the tensors must be what they were.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import decode_jpeg

from benchmarks.accept.photos import make_photos, with_restart_markers
from benchmarks.accept.setting import LeftOut, Setting
from benchmarks.row_files import Row
from loaders import LoaderConfig, build_loader
from loaders.beton import Beton
from loaders.errors import MissingPackageError, reason_of

__all__ = ["SUSPECTS", "TOLERANCE", "corruption"]

TOLERANCE = 16
"""How far a pixel may be from the CPU's, in levels: the colours of the photos are not subsampled, so that decoders and
filters differ by a few levels at most, and another image's pixels by more than this."""

_MOST_STEPS, _CAP_SECONDS = 10_000, 75.0
_CONTROL_STEPS, _REHEARSED_STEPS = 500, 3
_STALL_SECONDS = 0.004
_NUM_TENSORS, _TENSOR_BYTES = 16, 3 * 375 * 500  # as many as a batch has images, and as large as a whole photo
_BATCH_SIZE, _NUM_WHOLE = 16, 32
_MATMUL_SIDE = 8192
_RIM = 2  # where DALI repeats the last pixel, and ours leaves out what the filter wants from beyond the crop


class _Suspect(NamedTuple):
    """What makes batches, and what they should be."""

    batches: Iterator[tuple[Tensor, Tensor]]
    """Without an end: images [b, 3, h, w] and which of the photos they are, int64 [b], both on the device."""
    expected: Tensor
    """uint8 [n, 3, h, w]: all photos, as the CPU makes them."""


def corruption(setting: Setting, *, suspect: str) -> Iterator[Row]:
    """One row: steps made, and how many had other pixels, or other numbers in the tensors, than they should have.

    Raises:
        LeftOut: A package or a CUDA device is missing.
    """
    open_suspect, is_control = SUSPECTS[suspect]
    try:
        with open_suspect(setting, _photos(setting)) as made:
            most = _CONTROL_STEPS if is_control else _MOST_STEPS
            figures = _steps(made, _stall(setting), most=most if setting.on_cuda else _REHEARSED_STEPS)
    except MissingPackageError as error:
        raise LeftOut(str(error)) from error
    except RuntimeError as error:
        if "not compiled with nvjpeg" in str(error).lower():
            raise LeftOut(reason_of(error)) from error
        raise
    yield {"suspect": suspect, **figures, "problem": None if is_control else _problem(figures)}


def _problem(figures: Row) -> str | None:
    wrong = max(figures["corrupted_batches"], figures["overwritten_tensors"])
    if wrong:
        return f"in {wrong} of {figures['steps']} steps, memory was overwritten that was still to be read"
    return None if figures["steps"] else f"no step ended in {_CAP_SECONDS:g} s"


def _steps(suspect: _Suspect, stall: Callable[[], object], *, most: int) -> Row:
    device = suspect.expected.device
    values = torch.arange(1, 1 + _NUM_TENSORS, device=device)
    steps, num_images, corrupted, overwritten, largest = 0, 0, 0, 0, 0
    images, which = next(suspect.batches)
    end = time.monotonic() + _CAP_SECONDS
    while steps < most and time.monotonic() < end:
        tensors = [
            torch.full((_TENSOR_BYTES,), value, dtype=torch.uint8, device=device)
            for value in range(1, 1 + _NUM_TENSORS)
        ]
        stall()
        differences = (images.short() - suspect.expected[which].short()).abs()
        difference = differences[..., _RIM:-_RIM, _RIM:-_RIM].max()
        sums = torch.stack([tensor.sum(dtype=torch.int64) for tensor in tensors])
        num_images += len(images)
        del tensors, images, which  # all of which the device still has to read
        images, which = next(suspect.batches)
        largest = max(largest, int(difference))
        corrupted += int(difference) > TOLERANCE
        overwritten += int(not torch.equal(sums, values * _TENSOR_BYTES))
        steps += 1
    return {
        "steps": steps,
        "images": num_images,
        "corrupted_batches": corrupted,
        "overwritten_tensors": overwritten,
        "largest_difference": largest,
    }


def _stall(setting: Setting) -> Callable[[], object]:
    """Queues matmuls that keep the whole device busy for some milliseconds."""
    if not setting.on_cuda:
        return lambda: None
    left, right = (torch.randn(_MATMUL_SIDE, _MATMUL_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    result = left @ right
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        torch.mm(left, right, out=result)
    torch.cuda.synchronize()
    number = max(1, round(_STALL_SECONDS / ((time.perf_counter() - start) / 10)))

    def stall() -> None:
        for _ in range(number):
            torch.mm(left, right, out=result)

    return stall


def _photos(setting: Setting) -> Path:
    """Photos whose colours are not subsampled, with restart markers; made by the first job."""
    path = setting.work / "corruption.beton"
    if not path.exists():
        num_images = 1024 if setting.on_cuda else 64
        plain = make_photos(path.with_suffix(".plain"), num_images=num_images, chroma="4:4:4")
        with_restart_markers(plain, path, num_images=num_images)
    return path


@contextmanager
def _of_backend(name: str, setting: Setting, photos: Path) -> Iterator[_Suspect]:
    """One epoch of random crops, again and again: of the same pixels each time."""
    config = LoaderConfig(
        batch_size=_BATCH_SIZE,
        resolution=128,
        crop="random_resized",
        order="random",
        drop_last=False,
        device=torch.device(setting.device),
    )
    in_order = replace(config, order="sequential", device=torch.device("cpu"))
    with closing(build_loader("native", photos, in_order)) as native:
        expected = torch.cat([batch.images.to(setting.device, copy=True) for batch in native])
    with closing(build_loader(name, photos, config)) as loader:

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                loader.set_epoch(0)
                for batch in loader:
                    yield batch.images, batch.index.to(setting.device)
                    del batch  # or it would be there until the next one is

        yield _Suspect(batches(), expected)


@contextmanager
def _of_torchvision(setting: Setting, photos: Path) -> Iterator[_Suspect]:
    """Whole photos by torchvision, with nothing that makes the decoder wait for the caller's stream."""
    beton = Beton(photos)
    jpegs = [torch.from_numpy(beton.image_bytes(index).copy()) for index in range(_NUM_WHOLE)]
    expected = torch.stack([decode_jpeg(jpeg) for jpeg in jpegs]).to(setting.device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in count():
            which = [(step * _BATCH_SIZE + number) % _NUM_WHOLE for number in range(_BATCH_SIZE)]
            images = decode_jpeg([jpegs[number] for number in which], device=setting.device)
            yield torch.stack(images), torch.tensor(which, device=setting.device)

    yield _Suspect(batches(), expected)


SUSPECTS: dict[str, tuple[Callable[[Setting, Path], AbstractContextManager[_Suspect]], bool]] = {
    "dali": (partial(_of_backend, "dali"), False),
    "nvjpeg": (partial(_of_backend, "nvjpeg"), False),
    "torchvision's decode_jpeg": (_of_torchvision, True),
}
"""By name, and whether it is there only to show that the check finds what it is looking for."""
