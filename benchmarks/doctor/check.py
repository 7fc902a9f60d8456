"""Twenty predictions next to what the loader then did: `python -m benchmarks.doctor.check --help`.

A prediction sees at most half of the images. Those of options are compared with the loader on a file that the option's
own command wrote, or with the option's own setting.
"""

import io
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from benchmarks.bench_doctor import BenchDoctor, diagnose
from benchmarks.doctor.decoding import Variant
from benchmarks.doctor.sample import Sample, copy_as_it_is, open_data_set
from benchmarks.doctor.verification import measure_loader
from benchmarks.harness import say
from benchmarks.measured_data import repeated
from benchmarks.row_files import Row, append_rows
from benchmarks.rows import print_table
from loaders.command import run_command
from loaders.errors import FastvitError
from tools.write_dali import WriteDali, write_dali
from tools.write_ffcv import WriteFfcv, main, write_ffcv

__all__ = ["CASES", "Case", "Check", "check"]

_PROG = "python -m benchmarks.doctor.check"
_SECONDS = 25.0
"""For an examination."""
_VERIFY_SECONDS = 4.0
_TIMES = 8
_MOST_IMAGES = 10_000
_ALLOWED = 0.1
_MODES: dict[str, Literal["restart", "reencode"]] = {"restart": "restart", "500 px": "reencode"}


class Case(NamedTuple):
    """A prediction to check."""

    form: Literal["originals", "restart", "500 px", "folder", "tar", "tfrecord", "cifar10"]
    """Of the data."""
    case: Literal["train", "val", "whole", "shift"]
    resolution: int
    threads: int
    option: str | None = None
    """The change that is predicted; None is the loader as it is."""


CASES = (
    Case("originals", "train", 224, 2),
    Case("originals", "train", 224, 2, "restart markers"),
    Case("originals", "train", 224, 2, "at most 400 px"),
    Case("originals", "train", 224, 2, "raw pixels, short side 256 px"),
    Case("originals", "train", 224, 1),
    Case("originals", "train", 96, 2, "scaled decode"),
    Case("originals", "val", 224, 2),
    Case("restart", "train", 160, 2),
    Case("restart", "val", 224, 1),
    Case("500 px", "train", 224, 2),
    Case("500 px", "train", 128, 1),
    Case("500 px", "train", 160, 2, "at most 320 px"),
    Case("500 px", "whole", 128, 2),
    Case("folder", "train", 224, 2),
    Case("folder", "train", 224, 2, "one .beton file"),
    Case("folder", "val", 160, 1),
    Case("tar", "train", 192, 2),
    Case("tfrecord", "val", 128, 2),
    Case("cifar10", "shift", 32, 2),
    Case("cifar10", "shift", 32, 1),
)
"""Those with the same loader next to each other: they have one examination."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Compare twenty predictions of `fastvit-bench doctor` with what the loader then does."""

    photos: Path
    """A .beton file of JPEGs, from which all forms of data are made but CIFAR-10."""
    cifar10: Path = Path("data/cifar10_train.beton")
    """CIFAR-10 as fastvit-data write-ffcv makes it."""
    cases: tuple[int, ...] = tuple(range(1, len(CASES) + 1))
    """Which, by their numbers from 1."""
    json: Path | None = None
    """Append a line of JSON per case to this file."""

    def __post_init__(self) -> None:
        if not self.cases or not all(1 <= number <= len(CASES) for number in self.cases):
            raise FastvitError(f"cases must be numbers from 1 to {len(CASES)}, got {self.cases}")


def check(config: Check) -> list[Row]:
    """Predict and measure each case, print a table and return the rows.

    Raises:
        FastvitError: The photos or CIFAR-10 are missing or damaged.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="fastvit-doctor-check-") as folder:
        # As many photos as have epochs in which beginnings and ends do not count.
        config = replace(config, photos=repeated(config.photos, Path(folder) / "repeated", times=_TIMES))
        chosen = [CASES[number - 1] for number in config.cases]
        for _, cases in groupby(chosen, key=lambda case: case[:4]):
            for row in _checked(list(cases), config, Path(folder)):
                say(f"{row['data']}, {row['option'] or 'as it is'}: off by {row['miss']:+.1%}")
                rows.append(row)
                if config.json is not None:
                    append_rows(config.json, [row])
    _print(rows)
    return rows


def _checked(cases: Sequence[Case], config: Check, folder: Path) -> Iterator[Row]:
    """A row for each of these cases, of the same data and loader."""
    data = _made(cases[0].form, config, folder)
    asked = BenchDoctor(
        data=data,
        case=cases[0].case,
        resolution=cases[0].resolution,
        threads=cases[0].threads,
        device="cpu",
        sample_images=min(
            _MOST_IMAGES, len(open_data_set(data).images) // (2 if data == config.cifar10 else 2 * _TIMES)
        ),
        seconds=_SECONDS,
    )
    row = diagnose(asked, start=time.monotonic())
    options = {option["name"]: option for option in row["options"]}
    for case in cases:
        chosen = row if case.option is None else options[case.option]
        variant = Variant(data, asked.loader_config)
        if case.option is not None:
            variant = _changed(variant, options[case.option]["how"], folder)
        measured = measure_loader(variant, warm_seconds=_VERIFY_SECONDS, seconds=_VERIFY_SECONDS)
        predicted = chosen["predicted_images_per_second"]
        truth = {"measured_images_per_second": measured, "miss": predicted / measured - 1}
        yield row | {"data": case.form, "option": case.option, "predicted_images_per_second": predicted} | truth


def _made(form: str, config: Check, folder: Path) -> Path:
    """The data in this form, which is made when it is first asked for."""
    if form == "cifar10":
        return config.cifar10
    if form == "originals":
        return config.photos
    data = folder / (f"{form}.beton" if form in _MODES else form)
    if data.exists():
        return data
    with redirect_stderr(io.StringIO()):
        if form in _MODES:
            write_ffcv(WriteFfcv(dataset="beton", source=config.photos, out=data, mode=_MODES[form]))
        elif form == "folder":
            originals = open_data_set(config.photos)
            images = [originals.images[number] for number in range(len(originals.images))]
            as_folder = originals._replace(kind="folder")
            # Copies of an image lie apart, each in a class of its own: one after the other they would decode faster.
            labels = [number * _TIMES // len(images) for number in range(len(images))]
            copy_as_it_is(Sample(as_folder, [one.load() for one in images], labels), data)
            data = data / "files"
        else:
            kind: Literal["tar", "tfrecord"] = "tar" if form == "tar" else "tfrecord"
            write_dali(
                WriteDali(dataset="beton", source=config.photos, out=data / "train", mode="reencode", format=kind)
            )
    return data


def _changed(variant: Variant, how: str, folder: Path) -> Variant:
    """What an option makes of the data, by its own command, or of the loader."""
    program, *words = shlex.split(how)
    if program == "--data.scaled-decode":
        return variant._replace(config=replace(variant.config, scaled_decode=True))
    out = folder / words[-1]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = main([*words[1:-1], str(out), "--overwrite"])
    if code:
        raise RuntimeError(f"this failed: {how}")
    return variant._replace(path=out)


def _print(rows: Sequence[Row]) -> None:
    columns = {
        "data": [row["data"] for row in rows],
        "case": [row["case"] for row in rows],
        "px": [str(row["resolution"]) for row in rows],
        "threads": [str(row["threads"]) for row in rows],
        "change": [row["option"] or "" for row in rows],
        "predicted": [f"{row['predicted_images_per_second']:,.0f}" for row in rows],
        "measured": [f"{row['measured_images_per_second']:,.0f}" for row in rows],
        "miss": [f"{row['miss']:+.1%}" for row in rows],
    }
    missed = sum(abs(row["miss"]) > _ALLOWED for row in rows)
    print_table(f"{len(rows)} predictions in images/s, {missed} of them off by more than {_ALLOWED:.0%}", columns, rows)


def main_check() -> int:
    """Run the command line."""

    def work() -> None:
        check(tyro.cli(Check, prog=_PROG))

    return run_command(work, name=_PROG, interrupted=f"{_PROG}: interrupted")


if __name__ == "__main__":
    sys.exit(main_check())
