"""Whole images: JPEGs in memory to RGB pixels in memory, by one library after the other, in one thread and in several.

The protocol is `decode-memory` of the public imread-benchmark (github.com/ternaus/imread_benchmark): the files are read
before the clock starts; an image counts when its pixels, RGB, uint8 [height, width, 3], are all there in one piece of
memory; each library has a process of its own; each image is looked at once before, and one pass over all of them warms
up. Other than there, the libraries take turns, and several threads of a process decode different images.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.harness import Contender, Turn, say, take_turns
from benchmarks.options import INSTALLED, check_positive, split_names
from benchmarks.peers.decoders import DECODERS, problem_of, version_of
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, ratio_column, ratios, speed_columns
from loaders.beton import Beton
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError, reason_of
from loaders.image_folder import images_below
from tools.convert.encode_image import read_jpeg_header

__all__ = ["BenchImread", "Decoding", "Jpegs", "bench_imread", "read_jpegs"]

_COLOUR = 3
_MOST_PASSES = 1000

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchImread:
    """Measure libraries that decode whole JPEGs in memory to RGB."""

    data: Path
    """A .beton file of JPEGs, or a folder of them."""
    decoders: tuple[str, ...] = (INSTALLED,)
    """Which, separated by spaces or commas: fastvit, imageio, opencv, pillow, simplejpeg, torchvision, turbojpeg; or
    `installed`, all of these that are."""
    threads: tuple[int, ...] = field(default_factory=lambda: tuple(sorted({1, usable_cpus()})))
    """How many threads decode at the same time: each number is measured, with a table of its own."""
    num_images: int = 500
    """How many of the images at most, spread evenly over the data; those that are no colour images are left out."""
    rounds: int = 5
    """How often each is measured, taking turns, after a warm-up."""
    round_seconds: float = 1.0
    """How long a round is to last at least: one pass over the images, or several."""
    json: Path | None = None
    """Append a line of JSON for each decoder and number of threads to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "num_images", "rounds")
        if not self.threads or min(self.threads) < 1:
            raise FastvitError(f"threads must be one positive number or more, got {self.threads}")
        split_names(self.decoders, [*DECODERS, INSTALLED], kind="decoder")


class Jpegs(NamedTuple):
    """What is decoded."""

    files: list[bytes]
    """JPEGs with colour."""
    num_left_out: int
    """Images that are none: of other formats, grey, or CMYK, which libraries take to be different things."""


class Decoding:
    """One decoder in its own process: the work that is measured. Making it reads the files.

    Args:
        name: The decoder.
        config: What is measured.
        threads: How many decode at the same time.
    """

    def __init__(self, name: str, config: BenchImread, threads: int) -> None:
        self._name = name
        self._decode = DECODERS[name].load()
        self._jpegs = read_jpegs(config.data, config.num_images).files
        self._threads = threads

    def checked_pass(self) -> int:
        """Decode each image and look at what comes out.

        Raises:
            FastvitError: It is no RGB image in one piece, or not of the size that the file has; or there is nothing.
        """
        for number, jpeg in enumerate(self._jpegs, 1):
            height, width, _ = read_jpeg_header(jpeg)
            try:
                pixels = self._decode(jpeg)
            except Exception as error:  # each library has its own
                raise self._refused(f"cannot decode image {number}: {reason_of(error)}") from error
            if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
                made = f"{pixels.dtype} {pixels.shape}"
                raise self._refused(f"makes {made} of image {number}, which has {width} x {height} pixels")
        return len(self._jpegs)

    def passes(self, number: int) -> int:
        """Decode all images so many times."""
        jpegs = iter(self._jpegs * number)  # which the threads share: each takes the next one
        if self._threads == 1:
            self._decode_all(jpegs)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(self._decode_all, [jpegs] * self._threads))
        return number * len(self._jpegs)

    def _refused(self, what: str) -> FastvitError:
        return FastvitError(f"{self._name} {what}; leave it out of --decoders, or such images out of the data")

    def _decode_all(self, jpegs: Iterator[bytes]) -> None:
        for jpeg in jpegs:
            self._decode(jpeg)


def bench_imread(config: BenchImread) -> list[Row]:
    """Run the benchmark, print a table for each number of threads, and return the rows.

    Raises:
        FastvitError: The data has no JPEGs, or a decoder that is asked for is not installed.
        RuntimeError: A decoder failed.
    """
    jpegs, num_left_out = read_jpegs(config.data, config.num_images)
    pixels = sum(height * width for height, width, _ in map(read_jpeg_header, jpegs)) / len(jpegs)
    say(f"{len(jpegs)} JPEGs, {pixels / 1e6:.2f} megapixels each on average")
    if num_left_out:
        say(f"without {num_left_out} images that are no JPEGs, or grey, or CMYK")
    names, missing = _usable(config)
    rows = []
    for threads in dict.fromkeys(config.threads):
        rows += measured_rows(
            "imread",
            {name: partial(Decoding, name, config, threads) for name in names},
            partial(_measure, config),
            partial(_row, config, threads=threads, num_images=len(jpegs), pixels=pixels),
            json=config.json,
        )
        _print(rows[-len(names) :])
    for line in missing:
        print(line)
    return rows


def read_jpegs(path: Path, num_images: int) -> Jpegs:
    """Read JPEGs, spread evenly over the data.

    Args:
        path: A `.beton` file or a folder, whose images may lie in folders below it.
        num_images: How many images at most.

    Raises:
        FastvitError: There are no JPEGs with colour.
    """
    if path.is_dir():
        names = _spread(images_below(path, Counter()), num_images)
        found = [(path / name).read_bytes() for name in names]
    else:
        beton = Beton(path)
        found = [beton.image_bytes(index).tobytes() for index in _spread(range(beton.num_samples), num_images)]
    jpegs = [data for data in found if data.startswith(b"\xff\xd8") and read_jpeg_header(data)[2] == _COLOUR]
    if not jpegs:
        raise FastvitError(f"{path} has no JPEGs with colour; name a .beton file of JPEGs, or a folder of them")
    return Jpegs(jpegs, len(found) - len(jpegs))


def _spread(items: Sequence[_Item], number: int) -> list[_Item]:
    """So many of the items, evenly; all where there are fewer."""
    number = min(number, len(items))
    return [items[place * len(items) // number] for place in range(number)]


def _usable(config: BenchImread) -> tuple[list[str], list[str]]:
    """The decoders to measure, and a line for each one that is not installed.

    Raises:
        FastvitError: One of those is asked for by its name, or there is none.
    """
    asked = split_names(config.decoders, [*DECODERS, INSTALLED], kind="decoder")
    problems = {name: problem_of(name) for name in (DECODERS if INSTALLED in asked else asked)}
    lines = {
        name: f"{name} is not installed ({problem}); install it with: {DECODERS[name].install}"
        for name, problem in problems.items()
        if problem
    }
    for name in asked:
        if name in lines:
            raise FastvitError(lines[name])
    return [name for name in problems if name not in lines], list(lines.values())


def _measure(config: BenchImread, contenders: dict[str, Contender[Decoding]]) -> dict[str, list[Turn]]:
    passes = {name: _passes_per_round(contender, config.round_seconds) for name, contender in contenders.items()}

    def turn(name: str, _: int) -> Turn:
        return contenders[name].run(partial(Decoding.passes, number=passes[name]))

    return take_turns(contenders, config.rounds, turn)


def _passes_per_round(contender: Contender[Decoding], round_seconds: float) -> int:
    """How many passes last long enough, found by one that also warms up."""
    contender.run(Decoding.checked_pass)
    seconds = contender.run(partial(Decoding.passes, number=1)).seconds
    return max(1, min(math.ceil(round_seconds / seconds), _MOST_PASSES))


def _row(
    config: BenchImread, name: str, turns: dict[str, list[Turn]], *, threads: int, num_images: int, pixels: float
) -> Row:
    cost = costs(turns[name])
    return {
        "decoder": name,
        "version": version_of(name),
        "threads": threads,
        "data": str(config.data),
        "num_images": num_images,
        **cost,
        "megapixels_per_second": cost["images_per_second"] * pixels / 1e6,
        **ratios("ratio_to_first", turns[name], next(iter(turns.values()))),
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "decoder": [row["decoder"] for row in rows],
        "version": [row["version"] or "" for row in rows],
        **speed_columns(rows),
        "MP/s": [f"{row['megapixels_per_second']:,.0f}" for row in rows],
        f"ratio to {first['decoder']}": ratio_column("ratio_to_first", rows),
        **cost_columns(rows),
    }
    threads = "one thread" if first["threads"] == 1 else f"{first['threads']} threads"
    print_table(f"{first['num_images']} whole images of {first['data']} to RGB in memory, {threads}", columns, rows)
