"""Stage `decoding`: random resized crops of JPEGs by `native`, by DALI and by nvJPEG: how fast, with how much CPU time.

Splicing is measured on two files of the same images, one of which has the restart markers that it needs.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sized
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torchvision.io import decode_jpeg

from benchmarks.accept.photos import with_restart_markers, without_restart_markers
from benchmarks.accept.setting import LeftOut, Setting
from benchmarks.gpu_load import busy_fraction
from benchmarks.measured_data import as_form
from benchmarks.row_files import Row
from fastvit_train.prefetch import Prefetcher
from loaders import LoaderConfig, build_loader
from loaders.beton import Beton
from loaders.cpus import usable_cpus
from loaders.errors import MissingPackageError

__all__ = ["DECODERS", "decoding"]

_FEW_THREADS = 2
_GOAL_IMAGES_PER_SECOND, _GOAL_OF_SPLICING = 15_000, 1.5
_ROUNDS = 3
_BATCHES_AHEAD = 6
"""More than any loader has ready while others have their turn: these do not count."""

Photos = Literal["restart markers", "no restart markers"]
Batches = Generator[Sized, None, None]
"""Without an end."""
Open = Callable[[Setting, Path, LoaderConfig], Batches]


class Subject(NamedTuple):
    """A way to decode, and on what."""

    name: str
    photos: Photos
    open: Open
    goal: int | None = None
    """Images per second with few threads."""


def decoding(setting: Setting, *, decoder: str) -> Iterator[Row]:
    """A row for each way, with few threads and with as many as there are CPUs; the ways take turns.

    Raises:
        LeftOut: A package is missing.
    """
    for threads in sorted({min(_FEW_THREADS, usable_cpus()), usable_cpus()}):
        try:
            rounds = _rounds(setting, DECODERS[decoder], threads)
        except MissingPackageError as error:
            raise LeftOut(str(error)) from error
        for number, subject in enumerate(DECODERS[decoder]):
            yield {
                "decoder": subject.name,
                "photos": subject.photos,
                "threads": threads,
                "resolution": _config(setting).resolution,
                **_figures([one[number] for one in rounds]),
                "ratio_to_first": statistics.median(one[number].rate / one[0].rate for one in rounds),
                "goal_images_per_second": subject.goal if threads <= _FEW_THREADS else None,
                "goal_ratio": _GOAL_OF_SPLICING if subject.goal else None,
            }


class _Turn(NamedTuple):
    rate: float
    """Images per second."""
    cpu_seconds: float
    """For an image, of all threads."""
    cores: float
    """How many CPUs were busy."""
    device_busy: float | None


def _figures(turns: list[_Turn]) -> Row:
    busy = [turn.device_busy for turn in turns if turn.device_busy is not None]
    return {
        "images_per_second": statistics.median(turn.rate for turn in turns),
        "rounds": [turn.rate for turn in turns],
        "cpu_seconds_per_image": statistics.median(turn.cpu_seconds for turn in turns),
        "busy_cores": statistics.median(turn.cores for turn in turns),
        "device_busy_fraction": statistics.median(busy) if busy else None,
    }


def _rounds(setting: Setting, subjects: list[Subject], threads: int) -> list[list[_Turn]]:
    """The turns of each round."""
    config = replace(_config(setting), num_workers=threads)
    with ExitStack() as stack:
        opened = []
        for subject in subjects:
            batches = subject.open(setting, _photos(setting, subject.photos), config)
            opened.append(stack.enter_context(closing(batches)))
            _take_turn(setting, batches)  # what comes first is slower
        return [[_take_turn(setting, batches) for batches in opened] for _ in range(_ROUNDS)]


def _take_turn(setting: Setting, batches: Batches) -> _Turn:
    seconds = 1.2 if setting.on_cuda else 0.05
    for _ in range(_BATCHES_AHEAD if setting.on_cuda else 1):
        next(batches)
    _wait(setting)
    since, start, cpu_before, num_images = time.time(), time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        num_images += len(next(batches))
    _wait(setting)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_before
    busy = busy_fraction(since=since) if setting.on_cuda else None
    return _Turn(num_images / seconds, cpu_seconds / num_images, cpu_seconds / seconds, busy)


def _wait(setting: Setting) -> None:
    if setting.on_cuda:
        torch.cuda.synchronize()


def _config(setting: Setting) -> LoaderConfig:
    return LoaderConfig(
        batch_size=256 if setting.on_cuda else 16,
        resolution=224,
        crop="random_resized",
        order="random",
        drop_last=True,
        device=torch.device(setting.device),
    )


def _photos(setting: Setting, kind: Photos) -> Path:
    """The setting's photos with or without restart markers; made by the first job that needs them."""
    path = setting.work / f"{kind.replace(' ', '_')}.beton"
    num_images = 16_384 if setting.on_cuda else 64
    if not path.exists() and kind == "no restart markers":
        without_restart_markers(setting.photos, path, num_images=num_images)
    elif not path.exists():
        with_restart_markers(_photos(setting, "no restart markers"), path, num_images=num_images)
    return path


def _backend(
    name: str, *, decode: Literal["auto", "cpu", "mixed"] = "auto", hardware_share: float | None = None
) -> Open:
    """A backend whose batches go to the device as they do in training.

    Args:
        name: Of the backend.
        decode: See `LoaderConfig.decode`.
        hardware_share: The part of each batch that DALI gives the engines for JPEGs; its own choice when not given.
    """

    def batches(setting: Setting, photos: Path, config: LoaderConfig) -> Batches:
        device = torch.device(setting.device)
        with closing(build_loader(name, photos, replace(config, decode=decode))) as loader:
            ahead = Prefetcher(loader, device)
            for epoch in count():
                loader.set_epoch(epoch)
                if hardware_share is not None:
                    _set_hardware_share(hardware_share)
                for batch in ahead:
                    yield batch.images

    return batches


def _set_hardware_share(share: float) -> None:
    """For pipelines made from now on. It is no option, as only this measurement wants another one."""
    pipeline = vars(import_module("loaders._dali_pipeline"))
    assert "_HARDWARE_SHARE" in pipeline
    pipeline["_HARDWARE_SHARE"] = share


def _plain_dali(*, whole_images: bool) -> Open:
    """DALI as NVIDIA's examples build it."""

    def batches(setting: Setting, photos: Path, config: LoaderConfig) -> Batches:
        from benchmarks.peers import dali

        folder = setting.work / "class_folders"
        if not folder.exists():
            as_form("folder", photos, folder, reader="dali-plain")
        decodes_on: Literal["mixed", "cpu"] = "mixed" if setting.on_cuda else "cpu"
        epochs = dali.open_epochs(folder, config, decodes_on=decodes_on, whole_images=whole_images)
        for epoch in count():
            yield from epochs(epoch)

    return batches


def _nvjpeg_calls(width: int) -> Open:
    """Whole images by torchvision's decoder alone, so many in each call."""

    def batches(setting: Setting, photos: Path, _: LoaderConfig) -> Batches:
        beton = Beton(photos)
        jpegs = [torch.from_numpy(beton.image_bytes(index).copy()) for index in range(min(beton.num_samples, 512))]
        for start in count(0, width):
            chosen = [jpegs[number % len(jpegs)] for number in range(start, start + width)]
            yield decode_jpeg(chosen, device=setting.device)

    return batches


DECODERS: dict[str, list[Subject]] = {
    "native": [Subject("native", "restart markers", _backend("native"))],
    "dali on the CPU": [Subject("dali, cpu", "restart markers", _backend("dali", decode="cpu"))],
    "dali": [
        Subject("dali, mixed", "no restart markers", _backend("dali")),
        Subject("dali, mixed, spliced", "restart markers", _backend("dali"), _GOAL_IMAGES_PER_SECOND),
    ],
    "dali, by the share of the engines": [
        Subject(f"dali, mixed, spliced, {share:.0%}", "restart markers", _backend("dali", hardware_share=share))
        for share in (1.0, 0.9, 0.65)
    ],
    "plain DALI": [
        Subject("plain DALI, mixed, crops", "no restart markers", _plain_dali(whole_images=False)),
        Subject("plain DALI, mixed, whole images", "no restart markers", _plain_dali(whole_images=True)),
    ],
    "nvjpeg": [
        Subject("nvjpeg", "no restart markers", _backend("nvjpeg")),
        Subject("nvjpeg, spliced", "restart markers", _backend("nvjpeg"), _GOAL_IMAGES_PER_SECOND),
    ],
    "nvjpeg, by images in a call": [
        Subject(f"torchvision, whole images, {width} in a call", "no restart markers", _nvjpeg_calls(width))
        for width in (32, 64, 128, 256)
    ],
}
