"""Converters side by side on one ImageFolder: whole conversions in interleaved rounds, after a warm-up."""

import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory, mkdtemp
from typing import Literal, NamedTuple

from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.options import check_positive, split_names
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, ratios, speed_columns
from loaders.beton import Beton
from loaders.errors import FastvitError
from tools.sources.folder import ImageFolder
from tools.write_ffcv import WriteFfcv, write_ffcv

__all__ = [
    "CONVERTERS",
    "BenchConvert",
    "Convert",
    "Converter",
    "Converting",
    "LinkedImages",
    "Measurement",
    "WarmUp",
    "bench_convert",
]

_MAX_SIDE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConvert:
    """Measure converters side by side on the same images.

    The source comes out of the page cache if it fits there: the warm-up has read it. Where the cache is full, so that
    the kernel must make room for what is written, the fast ones lose most. tools/write_ffcv.py has its file
    on disk (fsync) when its time ends; FFCV and cp leave that to the kernel, whatever is left of it after their time.
    """

    source: Path
    """The images: one folder for each class."""
    work: Path
    """Where to write; converted files are removed after each turn, copies in the end."""
    converters: tuple[str, ...] = ("keep", "keep-no-check", "restart", "reencode", "ffcv", "ffcv-500", "copy")
    """Which, separated by spaces or commas: tools/write_ffcv.py's modes `keep` (checked or not), `restart` and
    `reencode` (to at most 500 px); FFCV's DatasetWriter, which always encodes again with JPEG quality 90, at full size
    (`ffcv`) or to at most 500 px (`ffcv-500`); or `copy` (cp, file by file)."""
    num_images: int | None = None
    """Convert so many of the images, evenly spread over the classes; by default all."""
    workers: int = 2
    """Threads or worker processes of each."""
    rounds: int = 3
    """How often each converter is measured, taking turns, after a warm-up."""
    json: Path | None = None
    """Append a line of JSON per converter to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "num_images", "workers", "rounds")
        _ = self.names

    @property
    def names(self) -> list[str]:
        """The converters, in the order of their turns."""
        return split_names(self.converters, CONVERTERS, kind="converter")


Convert = Callable[[Path, Path, int], None]
"""Converts the images of a folder to a file or folder, with so many workers."""


def _ours(
    mode: Literal["keep", "restart", "reencode"], images: Path, out: Path, num_workers: int, *, check: bool = True
) -> None:
    write_ffcv(
        WriteFfcv(
            dataset="folder",
            source=images,
            out=out,
            mode=mode,
            max_side=_MAX_SIDE if mode == "reencode" else None,
            num_workers=num_workers,
            check=check,
        )
    )


def _ffcv(max_side: int | None, images: Path, out: Path, num_workers: int) -> None:
    from benchmarks.peers.ffcv_writer import write  # here, as it may be missing

    write(images, out, max_side=max_side, num_workers=num_workers)


def _copy(images: Path, out: Path, _: int) -> None:
    run(["cp", "-rL", images, out], check=True)  # -L: the images are links


class Converter(NamedTuple):
    """A contender."""

    convert: Convert
    counterpart: str
    """FFCV's converter to the same size."""


CONVERTERS = {
    "keep": Converter(partial(_ours, "keep"), "ffcv"),
    "keep-no-check": Converter(partial(_ours, "keep", check=False), "ffcv"),
    "restart": Converter(partial(_ours, "restart"), "ffcv"),
    "reencode": Converter(partial(_ours, "reencode"), "ffcv-500"),
    "ffcv": Converter(partial(_ffcv, None), "ffcv"),
    "ffcv-500": Converter(partial(_ffcv, _MAX_SIDE), "ffcv-500"),
    "copy": Converter(_copy, "ffcv"),
}


class LinkedImages(NamedTuple):
    """Links to the images of a source: the same ones for all converters."""

    folder: Path
    num_images: int
    num_bytes: int
    """Of the images together."""


class WarmUp(NamedTuple):
    """What a converter's first turn tells."""

    peak_rss_bytes: int
    stored_bytes: float
    """Of an image, on average."""


class Measurement(NamedTuple):
    """One converter's turns."""

    warm_up: WarmUp
    rounds: list[Turn]


class Converting:
    """One converter in its own process: the work that is measured."""

    def __init__(self, name: str, config: BenchConvert, images: LinkedImages) -> None:
        self._convert = CONVERTERS[name].convert
        self._images, self._num_workers = images, config.workers

    def convert(self, out: Path) -> int:
        """Convert all images, without a word about progress."""
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            self._convert(self._images.folder, out, self._num_workers)
        return self._images.num_images


def bench_convert(config: BenchConvert) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        FastvitError: The source is no ImageFolder, or has too few images.
        RuntimeError: A converter failed.
        OSError: There is no writing to the folder or the file of rows.
    """
    config.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fastvit-bench-", dir=config.work) as folder:
        work = Path(folder)
        images = _link_images(config.source, work / "source", config.num_images)
        rows = measured_rows(
            "convert",
            {name: partial(Converting, name, config, images) for name in config.names},
            partial(_measure, work, config.rounds),
            partial(_row, config, images),
            json=config.json,
        )
    _print(rows)
    return rows


def _link_images(source: Path, folder: Path, num_images: int | None) -> LinkedImages:
    samples = ImageFolder(source)
    wanted = num_images or len(samples)
    if wanted > len(samples):
        raise FastvitError(f"{source}: cannot convert {wanted} of its {len(samples)} images; choose fewer")
    num_bytes = 0
    for number in range(wanted):
        sample = samples[number * len(samples) // wanted]
        image, link = Path(str(sample)).absolute(), folder / sample.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image)
        num_bytes += image.stat().st_size
    return LinkedImages(folder, wanted, num_bytes)


def _measure(work: Path, num_rounds: int, contenders: dict[str, Contender[Converting]]) -> dict[str, Measurement]:
    warm_ups = {name: _warm_up(contender, work) for name, contender in contenders.items()}

    def turn(name: str, _: int) -> Turn:
        with _place(work) as out:
            return contenders[name].run(partial(Converting.convert, out=out))

    turns = take_turns(contenders, num_rounds, turn)
    return {name: Measurement(warm_ups[name], turns[name]) for name in contenders}


def _warm_up(contender: Contender[Converting], work: Path) -> WarmUp:
    with _place(work) as out:
        return WarmUp(contender.run_watched(partial(Converting.convert, out=out)), _stored_bytes(out))


@contextmanager
def _place(work: Path) -> Iterator[Path]:
    """Where to write in one turn, after which the kernel has nothing left to write during the next turn.

    Copied folders stay: ext4 passes over inodes that were freed in the last minutes one by one, so that the next copy
    would take up to ten times as long.
    """
    folder = Path(mkdtemp(prefix="turn-", dir=work))
    out = folder / "images"
    yield out
    if out.is_file():
        shutil.rmtree(folder)
    os.sync()


def _stored_bytes(path: Path) -> float:
    """The mean size of the images in a file or folder, without a file's tables and padding."""
    if path.is_dir():
        return statistics.mean(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with Beton(path) as beton:
        return float(beton.sizes.mean())


def _row(config: BenchConvert, images: LinkedImages, name: str, measurements: dict[str, Measurement]) -> Row:
    mine, counterpart = measurements[name], CONVERTERS[name].counterpart
    figures = costs(mine.rounds)
    theirs = measurements.get(counterpart)
    return {
        "converter": name,
        "source": str(config.source),
        "num_images": images.num_images,
        "source_bytes": images.num_bytes,
        "work": str(config.work),
        "workers": config.workers,
        **figures,
        "peak_rss_bytes": mine.warm_up.peak_rss_bytes,
        "source_megabytes_per_second": figures["images_per_second"] * images.num_bytes / images.num_images / 1e6,
        "stored_bytes_per_image": mine.warm_up.stored_bytes,
        "counterpart": counterpart,
        **ratios("ratio_to_counterpart", mine.rounds, theirs.rounds if theirs else None),
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    ratios_to = [(row["ratio_to_counterpart"], row["counterpart"]) for row in rows]
    columns = {
        "converter": [row["converter"] for row in rows],
        **speed_columns(rows),
        **cost_columns(rows),
        "source MB/s": [f"{row['source_megabytes_per_second']:,.0f}" for row in rows],
        "stored bytes/image": [f"{row['stored_bytes_per_image']:,.0f}" for row in rows],
        "ratio": [f"{ratio:.2f} to {counterpart}" if ratio else "" for ratio, counterpart in ratios_to],
    }
    title = f"{first['source']}, {first['num_images']:,} images, {first['workers']} workers each"
    print_table(title, columns, rows)
