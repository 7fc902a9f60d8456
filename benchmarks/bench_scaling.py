"""How loaders scale: with more threads, and with more records."""

import io
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from benchmarks.accept.photos import make_photos
from benchmarks.bench_loader import BenchLoader, contender_data
from benchmarks.harness import Contender, say
from benchmarks.loading import Loading, Measurement, measure_one_epoch, measure_warm
from benchmarks.options import check_positive
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, ratio_column, ratios, speed_columns
from loaders.beton import BetonWriter, EncodedImage, FieldKind, ImageMode
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["BenchScaling", "bench_scaling", "write_small_images"]

_RECORDS = (1_000, 10_000, 100_000, 1_000_000)
_FIELDS = {"image": FieldKind.RGB_IMAGE, "label": FieldKind.INT}
_NUM_PHOTOS, _SIZE = 1024, 224
_SMALL_SIDE, _NUM_DIFFERENT, _NUM_CLASSES = 32, 64, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchScaling:
    """Measure how loaders scale with threads or with the number of records."""

    over: Literal["threads", "records"] = "threads"
    """What becomes more. threads: whole epochs, the numbers of threads take turns. records: for each number a loader of
    its own, whose speed is that within an epoch (after the end of a short one the next begins)."""
    data: Path | None = None
    """Images, as `fastvit-bench loader` takes them; photos of 500 x 375 px are made when not given. Not for records,
    which are copies of small images."""
    loaders: tuple[str, ...] = ("native", "ffcv", "torch")
    """Which contenders of `fastvit-bench loader`, separated by spaces or commas."""
    threads: tuple[int, ...] | None = None
    """Numbers of threads or worker processes; when not given, 1, 2, 4 and so on, and all CPUs that this process may
    use. With records one number: all CPUs when not given."""
    records: tuple[int, ...] | None = None
    """Numbers of records; 1,000 to 1,000,000 in steps of ten when not given."""
    case: Literal["train", "val", "whole"] = "train"
    """As in `fastvit-bench loader`."""
    resolution: int | None = None
    """Side of the images that the loaders hand over, in pixels; 224 when not given, 32 with records."""
    batch_size: int = 256
    """Images per batch."""
    rounds: int = 5
    """How often each is measured, after a warm-up."""
    round_seconds: float = 1.0
    """How long a round is to last at least."""
    json: Path | None = None
    """Append the rows to this file, a line of JSON each, as soon as they are there."""

    def __post_init__(self) -> None:
        check_positive(self, "resolution", "batch_size", "rounds")
        for name in ("threads", "records"):
            numbers = getattr(self, name)
            if numbers is not None and (not numbers or min(numbers) < 1):
                raise FastvitError(f"{name} must be positive numbers, got {numbers}")
        if self.over == "threads" and self.records is not None:
            raise FastvitError("records must be left out with --over threads, whose data is --data")
        if self.over == "records" and self.data is not None:
            raise FastvitError(f"data must be left out with --over records, whose images are made, got {self.data}")
        if self.over == "records" and len(self.all_threads) > 1:
            raise FastvitError(f"threads must be one number with --over records, got {self.threads}")
        _ = self.loading(Path(), threads=1).names

    @property
    def all_threads(self) -> list[int]:
        """The numbers of threads, in rising order."""
        if self.threads is not None:
            return sorted(set(self.threads))
        cpus = usable_cpus()
        if self.over == "records":
            return [cpus]
        return sorted({1 << bits for bits in range(cpus.bit_length())} | {cpus})

    @property
    def all_records(self) -> list[int]:
        """The numbers of records, in rising order."""
        return sorted(set(self.records or _RECORDS))

    def loading(self, data: Path, *, threads: int) -> BenchLoader:
        """What `fastvit-bench loader` would measure."""
        return BenchLoader(
            data=data,
            case=self.case,
            resolution=self.resolution or (_SMALL_SIDE if self.over == "records" else _SIZE),
            loaders=self.loaders,
            threads=threads,
            batch_size=self.batch_size,
            rounds=self.rounds,
            round_seconds=self.round_seconds,
        )


def bench_scaling(config: BenchScaling) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        FastvitError: The data is damaged, or the disk has no room for so many records.
        RuntimeError: A loader failed.
    """
    with tempfile.TemporaryDirectory(prefix="fastvit-bench-") as folder:
        rows = (_over_threads if config.over == "threads" else _over_records)(config, Path(folder))
    _print(config, rows)
    return rows


def _over_threads(config: BenchScaling, folder: Path) -> list[Row]:
    data = config.data or make_photos(folder / "photos.beton", num_images=_NUM_PHOTOS)
    loadings = {threads: config.loading(data, threads=threads) for threads in config.all_threads}
    names = next(iter(loadings.values())).names
    rows: list[Row] = []
    with contender_data(names, data) as places:
        for name in names:  # one after the other: a loader at all its numbers of threads takes memory enough
            subjects = {
                f"{name} with {threads} threads": partial(Loading, name, loading.loader_config, places[name])
                for threads, loading in loadings.items()
            }
            threads_of = dict(zip(subjects, loadings, strict=True))
            measure = partial(measure_warm, rounds=config.rounds, round_seconds=config.round_seconds)
            make_row = partial(_threads_row, config, name, threads_of)
            rows += measured_rows("scaling", subjects, measure, make_row, json=config.json)
    return rows


def _threads_row(
    config: BenchScaling, name: str, threads_of: Mapping[str, int], subject: str, measurements: dict[str, Measurement]
) -> Row:
    mine, threads = measurements[subject], threads_of[subject]
    fewest = min(threads_of, key=threads_of.__getitem__)
    share = ratios("share_of_linear", mine.rounds, measurements[fewest].rounds, scale=threads_of[fewest] / threads)
    return {
        **_row(config, name, mine, threads=threads),
        **share,
        "data": "made photos" if config.data is None else str(config.data),
    }


def _over_records(config: BenchScaling, folder: Path) -> list[Row]:
    (threads,) = config.all_threads
    rows: list[Row] = []
    for number in config.all_records:
        data = folder / f"{number}.beton"
        say(f"writing {number:,} records")
        write_small_images(data, num_images=number)
        loading = config.loading(data, threads=threads)
        with contender_data(loading.names, data) as places:
            for name in loading.names:
                make = partial(Loading, name, loading.loader_config, places[name])
                rows += _records_rows(config, name, make, threads=threads, records=number)
        data.unlink()
    return rows


def _records_rows(
    config: BenchScaling, name: str, make: Callable[[], Loading], *, threads: int, records: int
) -> list[Row]:
    def measure(contenders: dict[str, Contender[Loading]]) -> Measurement:
        (contender,) = contenders.values()
        return measure_one_epoch(contender, rounds=config.rounds, round_seconds=config.round_seconds)

    def row(_: str, measurement: Measurement) -> Row:
        return {**_row(config, name, measurement, threads=threads), "records": records, "data": "made small images"}

    return measured_rows("scaling", {f"{name} on {records:,} records": make}, measure, row, json=config.json)


def _row(config: BenchScaling, name: str, measurement: Measurement, *, threads: int) -> Row:
    loading = config.loading(Path(), threads=threads)
    return {
        "over": config.over,
        "loader": name,
        "threads": threads,
        "records": None,
        "case": config.case,
        "resolution": loading.resolution,
        "batch_size": config.batch_size,
        **costs(measurement.rounds),
        "share_of_linear": None,
        "open_seconds": measurement.open_seconds,
        "first_batch_seconds": measurement.first_batch_seconds,
        "anonymous_rss_bytes": measurement.anonymous_rss_bytes,
    }


def write_small_images(path: Path, *, num_images: int) -> Path:
    """Write a `.beton` file of JPEGs of 32 px, each of at most 64 some times; returns its path.

    Raises:
        FastvitError: The disk has no room for it.
    """
    draw = np.random.default_rng(0)
    jpegs = [_jpeg(draw) for _ in range(min(_NUM_DIFFERENT, num_images))]
    # A record takes 48 bytes in tables.
    num_bytes = num_images * (48 + sum(map(len, jpegs)) // len(jpegs))
    free = shutil.disk_usage(path.parent).free
    if num_bytes > free:
        raise FastvitError(
            f"{num_images:,} records take {num_bytes / 1e9:.1f} GB, and {path.parent} has {free / 1e9:.1f} GB free: "
            "choose fewer --records, or set TMPDIR to a folder on a larger disk"
        )
    images = [EncodedImage(jpeg, ImageMode.JPG, _SMALL_SIDE, _SMALL_SIDE) for jpeg in jpegs]
    with BetonWriter(path, _FIELDS, num_samples=num_images) as writer:
        for number in range(num_images):
            writer.append([images[number % len(images)], number % _NUM_CLASSES])
    return path


def _jpeg(draw: np.random.Generator) -> bytes:
    """An image whose colours change slowly, as a photo's do."""
    coarse = Image.fromarray(draw.integers(256, size=(4, 4, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((_SMALL_SIDE, _SMALL_SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _print(config: BenchScaling, rows: list[Row]) -> None:
    columns = {
        "loader": [row["loader"] for row in rows],
        "threads": [str(row["threads"]) for row in rows],
        "records": ["" if row["records"] is None else f"{row['records']:,}" for row in rows],
        **speed_columns(rows),
        "share of linear": ratio_column("share_of_linear", rows),
        **cost_columns(rows),
        "anonymous MiB": [f"{row['anonymous_rss_bytes'] / 2**20:,.0f}" for row in rows],
        "open s": [f"{row['open_seconds']:.3f}" for row in rows],
        "first batch s": [f"{row['first_batch_seconds']:.3f}" for row in rows],
    }
    first = rows[0]
    print_table(f"{first['data']}, {config.case}, {first['resolution']} px, over {config.over}", columns, rows)
