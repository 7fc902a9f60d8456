"""FFCV's own DatasetWriter over torchvision's ImageFolder, which the converters are measured against.

It decodes every image with Pillow and encodes it again with OpenCV; it does not fsync what it writes. It would wait for
ever for a worker that has died: here that ends in a message.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import psutil
from PIL.Image import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from loaders.errors import MissingPackageError

try:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
except ImportError as error:
    raise MissingPackageError(
        f"ffcv needs FFCV, which does not import here ({error}); install it with: pip install 'fastvit[ffcv]'"
    ) from error

__all__ = ["write"]

_JPEG_QUALITY = 90


def write(folder: Path, out: Path, *, max_side: int | None, num_workers: int) -> None:
    """Convert an ImageFolder to a `.beton` file of JPEGs.

    Args:
        folder: The images, in a folder for each class.
        out: The file to write.
        max_side: Images with a longer side, in pixels, are made smaller.
        num_workers: How many processes work on it.

    Raises:
        ChildProcessError: A worker could not continue; the message says which image it is about, where it is about one.
    """
    failures: SimpleQueue[str] = multiprocessing.SimpleQueue()
    images = ImageFolder(str(folder), loader=partial(_load, failures))
    field = RGBImageField(write_mode="jpg", max_resolution=max_side, jpeg_quality=_JPEG_QUALITY)
    writer = DatasetWriter(str(out), {"image": field, "label": IntField()}, num_workers=num_workers)
    try:
        with _failing_workers_raise(failures):
            writer.from_indexed_dataset(images)
    except ChildProcessError:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        writer.metadata_sm.unlink()
        raise


def _load(failures: "SimpleQueue[str]", path: str) -> Image:
    """Load an image, or end the worker process."""
    try:
        image: Image = default_loader(path)
    except (OSError, ValueError, SyntaxError) as error:
        failures.put(f"{path}: {error}")
        os._exit(1)
    return image


@contextmanager
def _failing_workers_raise(failures: "SimpleQueue[str]") -> Iterator[None]:
    def check_workers(*_: object) -> None:
        for worker in psutil.Process().children():
            ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and ended.si_status:
                reason = f"a worker ended with status {ended.si_status}" if failures.empty() else failures.get()
                raise ChildProcessError(f"FFCV's writer cannot continue: {reason}")

    previous = signal.signal(signal.SIGCHLD, check_workers)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)
