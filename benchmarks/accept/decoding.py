"""Stage `decoding`: random resized crops of JPEGs by `native` on the CPU and by NVIDIA's decoders on the card."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torchvision.io import decode_jpeg

from benchmarks.accept.setting import LeftOut, Setting
from benchmarks.rows import Row
from loaders import LoaderConfig, build_loader
from loaders.beton import Beton
from loaders.cpus import usable_cpus
from loaders.errors import MissingPackageError, reason_of

__all__ = ["DECODERS", "decoding"]


def decoding(setting: Setting, *, decoder: str) -> Iterator[Row]:
    """A row: images per second, with as many threads as there are CPUs."""
    epochs = DECODERS[decoder](setting)
    seconds = 2.0 if setting.on_cuda else 0.3
    _images(setting, epochs, seconds=seconds / 2)
    start = time.perf_counter()
    num_images = _images(setting, epochs, seconds=seconds)
    yield {
        "decoder": decoder,
        "threads": usable_cpus(),
        "images_per_second": num_images / (time.perf_counter() - start),
        "resolution": _config(setting).resolution,
    }


def _images(setting: Setting, epochs: Callable[[int], Iterator[int]], *, seconds: float) -> int:
    """The images of whole batches in about so many seconds."""
    num_images, epoch, end = 0, 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for number in epochs(epoch):
            num_images += number
            if time.perf_counter() >= end:
                break
        epoch += 1
    if setting.on_cuda:
        torch.cuda.synchronize()
    return num_images


def _config(setting: Setting) -> LoaderConfig:
    return LoaderConfig(
        batch_size=256 if setting.on_cuda else 16,
        resolution=224,
        crop="random_resized",
        order="random",
        drop_last=True,
        device=torch.device(setting.device),
    )


def _native(setting: Setting) -> Callable[[int], Iterator[int]]:
    loader = build_loader("native", setting.photos, _config(setting))

    def epochs(number: int) -> Iterator[int]:
        loader.set_epoch(number)
        for batch in loader:
            batch.images.to(setting.device, non_blocking=True)
            if setting.on_cuda:
                torch.cuda.current_stream().synchronize()  # the loader may use the memory again
            yield len(batch.labels)

    return epochs


def _dali(setting: Setting) -> Callable[[int], Iterator[int]]:
    try:
        from benchmarks.peers.dali import open_epochs
    except MissingPackageError as error:
        raise LeftOut(str(error)) from error
    opened = open_epochs(setting.photos, _config(setting), decodes_on="mixed" if setting.on_cuda else "cpu")
    return lambda number: map(len, opened(number))


def _torchvision(setting: Setting) -> Callable[[int], Iterator[int]]:
    """Whole images, not crops: nvJPEG through torchvision."""
    beton, config = Beton(setting.photos), _config(setting)
    plan = config.plan(beton.num_samples)

    def epochs(number: int) -> Iterator[int]:
        for indices in plan.batches(number):
            jpegs = [torch.from_numpy(np.array(beton.image_bytes(index))) for index in indices.tolist()]
            try:
                yield len(decode_jpeg(jpegs, device=setting.device))
            except RuntimeError as error:
                if "nvjpeg" in str(error).lower():  # this torchvision was built without it
                    raise LeftOut(reason_of(error)) from error
                raise

    return epochs


DECODERS = {"native": _native, "dali-mixed": _dali, "nvjpeg-whole-images": _torchvision}
