"""Read a converted data set back and say what is broken: ``python tools/verify.py train.beton``."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from loaders.beton import Beton
from loaders.command import run_command
from loaders.companions import card_path, read_card, record_list_path
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError
from loaders.shards import find_shards, open_each, open_shard, shard_kind
from loaders.tar_shard import TarShard
from tools.convert.progress import Advance, conversion_progress
from tools.convert.read_back import (
    ReadBack,
    RecordList,
    Stored,
    compare_records,
    describe_gap,
    load_record_list,
    read_back,
)

__all__ = ["CardCounts", "FileSet", "Report", "Verify", "find_sets", "main", "verify"]

_MAX_LINES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Read every record of a converted data set back.

    Checksums, sizes, labels and counts are compared with the record lists and the card next to the files, and
    every image is decoded whole.

    The exit code is 0 if all is well, 1 if something is broken, 2 if there is nothing to verify.
    """

    file: tyro.conf.Positional[Path]
    """A .beton file, or shards of tar or TFRecord: a folder of them, one, or a pattern such as train-*.tar."""

    num_workers: int = field(default_factory=usable_cpus)
    """Threads that decode."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise FastvitError(f"num_workers must be positive, got {self.num_workers}")


class FileSet(NamedTuple):
    """Files that one card describes."""

    card: Path
    files: list[Path]
    is_whole: bool
    """The files are all that the set has in its folder, so that the card's number of images must be theirs."""


class CardCounts(NamedTuple):
    """What a card says of its files."""

    num_images: int
    num_classes: int


@dataclass(kw_only=True, slots=True)
class Report:
    """What was read and what is broken."""

    num_files: int = 0
    num_images: int = 0
    num_bytes: int = 0
    num_undecodable: int = 0
    num_compared: int = 0
    """Images whose records a list could be compared with."""
    num_skipped: int = 0
    """Samples of the source that were left out when the files were written."""
    seconds: float = 0.0
    num_faults: int = 0
    faults: list[str] = field(default_factory=list)
    """The first `_MAX_LINES`."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be checked, and why."""

    def add_faults(self, lines: Iterable[str], count: int) -> None:
        """Count `count` faults, and take as many of their lines as there is room for."""
        self.faults += islice(lines, min(count, _MAX_LINES - len(self.faults)))
        self.num_faults += count

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-9)
        speed = f"{self.num_images / seconds:,.0f} images/s, {self.num_bytes / seconds / 1e6:,.0f} MB/s"
        rows = {
            "images": f"{self.num_images:,} in {_plural(self.num_files, 'file')}, {self.num_bytes:,} bytes",
            "decoded": f"{self.num_images - self.num_undecodable:,} whole, {self.num_undecodable:,} could not be",
            "compared": f"{self.num_compared:,} with the record list (checksum, size, label)",
            "left out": f"{_plural(self.num_skipped, 'image')} of the source, when it was converted",
            "speed": speed,
        }
        lines = [f"{name:11}{value}" for name, value in rows.items()]
        lines += [f"{'unchecked':11}{line}" for line in _shortened(self.unchecked, len(self.unchecked))]
        lines += [f"{'broken':11}{line}" for line in _shortened(self.faults, self.num_faults)]
        verdict = f"damaged: {_plural(self.num_faults, 'fault')}" if self.num_faults else "all well"
        return "\n".join([*lines, f"{'result':11}{verdict}"])


def find_sets(path: Path) -> list[FileSet]:
    """The files that `path` names, by the card that describes them.

    Raises:
        FastvitError: It names no converted file.
    """
    remedy = "name a .beton file, or shards (a folder, one of them, or a pattern)"
    shards = find_shards(path)
    if not shards:
        if not path.is_file():
            problem = "a folder without shards" if path.is_dir() else "no such file"
            raise FastvitError(f"{path}: {problem}; {remedy}")
        return [FileSet(card_path(path), [path], True)]
    kind = shard_kind(shards[0])
    sets: dict[Path, list[Path]] = {}
    for shard in shards:
        sets.setdefault(card_path(shard), []).append(shard)
    return [
        FileSet(
            card,
            files,
            sum(shard_kind(other) is kind and card_path(other) == card for other in card.parent.iterdir())
            == len(files),
        )
        for card, files in sets.items()
    ]


def verify(sets: Sequence[FileSet], *, num_workers: int) -> Report:
    """Read back all files of `sets`, showing progress."""
    report = Report()
    started = time.perf_counter()
    opened = [_open_all(file_set.files, report) for file_set in sets]
    total = sum(len(file.sizes) for files in opened for file in files)
    names = sets[0].files[0].name + (f" … {sets[-1].files[-1].name}" if sum(map(len, opened)) > 1 else "")
    with conversion_progress(names, total) as advance:
        for file_set, files in zip(sets, opened, strict=True):
            card = _check_card(file_set, files, report)
            for file in files:
                _verify_file(file, card, report, num_workers=num_workers, advance=advance)
    report.seconds = time.perf_counter() - started
    return report


def _open_all(paths: Sequence[Path], report: Report) -> list[Stored]:
    """Open files; those that cannot be opened become faults."""

    def open_file(path: Path) -> Stored | str:
        try:
            file: Stored = open_shard(path) if shard_kind(path) else Beton(path)
            len(file.labels), len(file.sizes)  # a .beton need not have them
        except ValueError as error:
            return str(error)
        return file

    results = open_each(open_file, paths)
    errors = [result for result in results if isinstance(result, str)]
    report.add_faults(errors, len(errors))
    return [result for result in results if not isinstance(result, str)]


def _check_card(file_set: FileSet, files: Sequence[Stored], report: Report) -> CardCounts | None:
    """Compare a set's card with the number of its images."""
    path = file_set.card
    if not path.exists():
        report.unchecked.append(f"numbers of images and classes: no card {path}")
        return None
    try:
        entries = read_card(path, "num_images", "num_classes")
    except ValueError as error:
        report.add_faults([str(error)], 1)
        return None
    card = CardCounts(entries["num_images"], entries["num_classes"])
    num_images = sum(len(file.sizes) for file in files)
    if not file_set.is_whole:
        report.unchecked.append(f"number of images: {path} describes more files than these {len(file_set.files)}")
    elif num_images != card.num_images and len(files) == len(file_set.files):
        report.add_faults([f"{path}: it says {card.num_images} images, {num_images} were found"], 1)
    return card


def _verify_file(file: Stored, card: CardCounts | None, report: Report, *, num_workers: int, advance: Advance) -> None:
    report.num_files += 1
    report.num_images += len(file.sizes)
    report.num_bytes += int(file.sizes.sum())
    listed = _load_list(file.path, report)
    found = ReadBack(np.zeros(0, np.uint32), {})
    if len(file.sizes):
        found = read_back(file, num_workers=num_workers, advance=advance)
    faults = {number: [f"cannot be decoded: {reason}"] for number, reason in found.undecodable.items()}
    report.num_undecodable += len(faults)
    for number in found.unsound:
        faults.setdefault(number, []).append("it is not what the checksum in its shard says")
    if card:
        for number in np.flatnonzero((file.labels < 0) | (file.labels >= card.num_classes)).tolist():
            fault = f"label {file.labels[number]} is none of the card's {card.num_classes} classes"
            faults.setdefault(number, []).append(fault)
    if listed and len(listed.records) == len(file.sizes):
        report.num_compared += len(file.sizes)
        for number, reasons in compare_records(file, found, listed).items():
            faults[number] = reasons + faults.get(number, [])
    elif listed:
        report.add_faults([f"{file.path}: {describe_gap(file, found, listed)}"], 1)
        listed = None
    _report_records(file, faults, listed, report)


def _load_list(path: Path, report: Report) -> RecordList | None:
    """The record list of a file, if there is a whole one."""
    list_path = record_list_path(path)
    if not list_path.exists():
        report.unchecked.append(f"checksums, sizes and labels of {path.name}: no record list {list_path}")
        return None
    try:
        listed = load_record_list(list_path)
    except ValueError as error:
        report.add_faults([str(error)], 1)
        return None
    report.num_skipped += listed.num_skipped
    return listed


def _report_records(file: Stored, faults: dict[int, list[str]], listed: RecordList | None, report: Report) -> None:
    """Report bad records in order; only those that are shown in full get their names looked up."""
    numbers = sorted(faults)
    shown = numbers[: max(0, _MAX_LINES - len(report.faults))]
    names = listed.names(shown) if listed else {}
    if isinstance(file, TarShard):
        names = {number: file.member_name(number) for number in shown}
    labels = {number: f"record {number}" + (f" ({names[number]!r})" if number in names else "") for number in shown}
    lines = (f"{file.path}: {labels[number]}: {'; '.join(faults[number])}" for number in shown)
    report.add_faults(lines, len(numbers))


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _shortened(lines: Sequence[str], count: int) -> list[str]:
    """The first lines, and how many more there are."""
    shown = list(lines[:_MAX_LINES])
    return [*shown, f"… and {count - len(shown):,} more"] if count > len(shown) else shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""

    def work() -> int:
        config = tyro.cli(Verify, args=argv)
        try:
            sets = find_sets(config.file)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        report = verify(sets, num_workers=config.num_workers)  # its errors: files that change or vanish meanwhile
        print(f"{config.file}\n{report}")
        return 1 if report.num_faults else 0

    return run_command(work, interrupted="interrupted: not all was verified")


if __name__ == "__main__":
    sys.exit(main())
