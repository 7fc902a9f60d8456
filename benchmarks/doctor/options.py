"""What the user can change, as variants of the sample that are measured, with the command that makes the change."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from shlex import join
from statistics import median
from typing import Any

from benchmarks.doctor.decoding import Variant
from benchmarks.doctor.sample import Sample, copy_converted
from loaders.beton import Beton
from loaders.cpus import num_threads, usable_cpus
from tools.convert.encode_image import ImageEncoder, read_jpeg_header

__all__ = ["Option", "options_for"]

_SIDES = (500, 400, 320)
_LEAST_ENLARGED = 1.25
"""Photos that are made smaller keep at least so many times the resolution: crops of less would show too little."""
_SHORT_SIDE = 8 / 7
"""Raw images keep this much of the resolution, 256 px for 224, as a validation crop wants it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A change."""

    name: str
    how: str
    """The command, or the option of `fastvit-train`."""
    note: str
    """What else it changes."""
    variant: Variant
    bytes_per_image: float
    """As it would be stored."""
    is_mapped: bool = True
    """Of what it would be stored in, see `Storage`."""


def options_for(sample: Sample, now: Variant, folder: Path, *, times: int, fits: bool) -> Iterator[Option]:
    """The options that there are for these data and this machine; those that convert it write into the folder.

    Args:
        sample: Of the data.
        now: How it is loaded now.
        folder: For converted copies of the sample.
        times: How often each image stands in a copy.
        fits: Whether the page cache can hold all the data.
    """
    threads = num_threads(now.config.num_workers)
    for number, (name, note, arguments) in enumerate(_conversions(sample, now.config.resolution)):
        encoder = ImageEncoder(**arguments)
        path = folder / f"option{number}.beton"
        # An epoch of pixels takes a tenth of the time that one of as many JPEGs does.
        num_images = math.inf if encoder.mode == "raw" else times * len(sample.images)
        copy_converted(sample, encoder, path, num_threads=threads, num_images=num_images)
        yield Option(
            name=name,
            how=_command(sample, arguments),
            note=note,
            variant=now._replace(path=path),
            bytes_per_image=float(Beton(path).sizes.mean()),
        )
    yield from _settings(sample, now, threads, fits=fits)


def _conversions(sample: Sample, resolution: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What our converter can make of the data: a name, what else it changes, and its options."""
    sides = _sides(sample)
    if not sides:
        return  # all are pixels already
    if not sample.data_set.is_mapped:
        yield "one .beton file", "no byte of an image changes", {"mode": "keep", "check": False}
    yield "restart markers", "no pixel changes", {"mode": "restart"}
    for side in _SIDES:
        if _LEAST_ENLARGED * resolution <= side < median(longer for _, longer in sides):
            yield f"at most {side} px", "encoded again, quality 90", {"mode": "reencode", "max_side": side}
    if (short := round(_SHORT_SIDE * resolution)) < median(shorter for shorter, _ in sides):
        yield f"raw pixels, short side {short} px", "many more bytes", {"mode": "raw", "min_side": short}


def _sides(sample: Sample) -> list[tuple[int, int]]:
    """The shorter and the longer side of each JPEG of the sample."""
    sides = []
    for image in sample.images:
        if isinstance(image, bytes):
            try:
                height, width, _ = read_jpeg_header(image)
            except (ValueError, RuntimeError):
                continue  # another format, or damaged
            sides.append((min(height, width), max(height, width)))
    return sides


def _command(sample: Sample, arguments: dict[str, Any]) -> str:
    """The command that converts all the data."""
    data, mode = sample.data_set, str(arguments["mode"])
    given = {"max_side": arguments.get("max_side", 0 if mode == "raw" else None), "min_side": arguments.get("min_side")}
    options = [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    out = f"{data.path.name.removesuffix('.beton').removesuffix('.tar')}-{mode}.beton"
    source = ["--dataset", data.kind, "--source", str(data.path)]
    return join(["fastvit-data", "write-ffcv", *source, "--mode", mode, *options, "--out", out])


def _settings(sample: Sample, now: Variant, threads: int, *, fits: bool) -> Iterator[Option]:
    """Options of the loader alone."""

    def option(name: str, how: str, note: str, variant: Variant) -> Option:
        return Option(
            name=name,
            how=how,
            note=note,
            variant=variant,
            bytes_per_image=sample.bytes_per_image,
            is_mapped=sample.data_set.is_mapped,
        )

    config = now.config
    if (cpus := usable_cpus()) > threads:
        more = now._replace(config=replace(config, num_workers=cpus))
        yield option(f"{cpus} threads", f"--data.num-workers {cpus}", "all cores", more)
    has_jpegs = any(isinstance(image, bytes) for image in sample.images)
    if has_jpegs and now.backend == "native" and config.crop == "random_resized" and not config.scaled_decode:
        scaled = now._replace(config=replace(config, scaled_decode=True))
        yield option("scaled decode", "--data.scaled-decode", "other pixels where a crop is twice as large", scaled)
    if not fits and config.order == "random":
        runs = now._replace(config=replace(config, order="quasi_random"))
        yield option(
            "quasi-random order", "--data.order quasi_random", "shuffle the data once, as you convert it", runs
        )
    if has_jpegs and config.device.type == "cuda":
        yield option("nvJPEG", "--data.backend nvjpeg", "decodes on the GPU", now._replace(backend="nvjpeg"))
        if find_spec("nvidia.dali"):
            mixed = Variant(now.path, replace(config, decode="mixed"), "dali")
            yield option("DALI on the GPU", "--data.backend dali --data.decode mixed", "decodes on the GPU", mixed)
