"""Join the parts of a data set that several machines converted: ``python tools/merge.py --help``."""

import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import tyro

from loaders.atomic_file import atomic_file, clear_os_errors, remove_leftovers
from loaders.beton import Beton, BetonStream, EncodedImage, ImageMode
from loaders.command import run_command
from loaders.companions import card_path, record_list_path
from loaders.errors import FastvitError
from tools.convert.partial_beton import FIELDS
from tools.convert.progress import Advance, conversion_progress
from tools.listings.card import Card, read_card
from tools.listings.record_list import SkippedLine, format_line, read_record_list

__all__ = ["Merge", "main", "merge"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """Join the parts of a data set: the same file as that of one machine, byte for byte.

    Shards of tar or TFRecord are a whole as they lie; for them, name the parts' cards (train.part-1-of-8.json) and let
    OUT be the card of the whole (train.json).
    """

    parts: tyro.conf.Positional[tuple[Path, ...]]
    """The parts' .beton files, or of shards their cards, in any order."""

    out: Path
    """The file to write."""

    overwrite: bool = False
    """Replace it if it exists."""


def merge(config: Merge) -> tuple[Path, Card]:
    """Join parts, and describe the whole.

    Raises:
        FastvitError: They are not all the parts of one data set, one is damaged, or the file exists or cannot be
            written. The `.beton` appears last: where it is, card and list are its own.
    """
    if config.out.exists() and not config.overwrite:
        raise FastvitError(f"{config.out}: exists already; remove it, name another file, or pass --overwrite")
    parts = _in_order({part: read_card(part if part.suffix == ".json" else card_path(part)) for part in config.parts})
    started = time.perf_counter()
    files, cards = list(parts), list(parts.values())
    are_shards = "page_size" not in cards[0].job
    if are_shards != (config.out.suffix == ".json"):
        whole = "shards make a card, name a .json file" if are_shards else "a .beton file make one, name a .beton file"
        raise FastvitError(f"{config.out}: parts of {whole}")
    if are_shards:
        card = _joined_card(cards, num_bytes=sum(card.num_bytes for card in cards), started=started)
        card.write(config.out)
        return config.out, card
    card_file, list_file = card_path(config.out), record_list_path(config.out)
    remove_leftovers(config.out)
    remove_leftovers(list_file)
    with clear_os_errors(config.out), atomic_file(config.out) as data:
        with atomic_file(list_file) as lines:
            page_size = int(cards[0].job["page_size"])
            stream = BetonStream(data, config.out, FIELDS, num_samples=cards[0].num_planned, page_size=page_size)
            with conversion_progress(config.out.name, sum(card.num_images for card in cards)) as advance:
                for file in files:
                    _copy_records(file, stream, lines, advance)
            stream.finish()
        card = _joined_card(cards, num_bytes=data.seek(0, 2), started=started)
        card.write(card_file)
    return config.out, card


def _in_order(cards: dict[Path, Card]) -> dict[Path, Card]:
    """The parts sorted by their numbers; all must be there, and of one data set."""
    numbers: dict[int, Path] = {}
    counts = set[int]()
    if not cards:
        raise FastvitError("no parts; name all parts of a data set")
    first_path, first = next(iter(cards.items()))
    for path, card in cards.items():
        if card.part is None:
            raise FastvitError(f"{path}: its card says that it is a whole data set, not a part; name parts alone")
        if card.job != first.job or card.num_planned != first.num_planned:
            different = next((key for key in card.job if card.job[key] != first.job.get(key)), "num_planned")
            raise FastvitError(
                f"{path} and {first_path} are not of one data set: another {different}; convert one again"
            )
        number, count = map(int, card.part.split("/"))
        if number in numbers:
            raise FastvitError(f"{path} and {numbers[number]} are both part {card.part}; name each part once")
        numbers[number] = path
        counts.add(count)
    if len(counts) > 1:
        raise FastvitError(
            f"{first_path}: the parts are of {' and of '.join(map(str, sorted(counts)))}; convert some again"
        )
    if missing := sorted(set(range(1, counts.pop() + 1)) - numbers.keys()):
        raise FastvitError(
            f"{first_path}: {len(missing)} parts are missing, the first number {missing[0]}; name all parts"
        )
    return {numbers[number]: cards[numbers[number]] for number in sorted(numbers)}


def _copy_records(file: Path, stream: BetonStream, lines: BinaryIO, advance: Advance) -> None:
    """Copy a part's records and the lines of its list, one held against the other.

    Raises:
        FastvitError: They do not fit together.
    """
    with Beton(file) as beton:
        index = 0
        for line in read_record_list(record_list_path(file)):
            lines.write(format_line(line))
            if isinstance(line, SkippedLine):
                continue
            data = beton.image_bytes(index) if index < beton.num_samples else None
            if data is None or (zlib.crc32(data.data), int(beton.labels[index])) != (line.crc32, line.label):
                raise FastvitError(f"{file}: record {index} is not what its record list says; convert the part again")
            image = EncodedImage(
                data, ImageMode(beton.modes[index]), int(beton.heights[index]), int(beton.widths[index])
            )
            stream.append((image, line.label))
            advance(1, data.nbytes)
            index += 1
        beton.check_is_whole()
        if index != beton.num_samples:
            raise FastvitError(f"{file}: its record list ends before record {index}; convert the part again")


def _joined_card(cards: Sequence[Card], *, num_bytes: int, started: float) -> Card:
    seconds = time.perf_counter() - started
    num_images = sum(card.num_images for card in cards)
    return replace(
        cards[0],
        num_images=num_images,
        num_bytes=num_bytes,
        formats=dict(sorted(sum((Counter(card.formats) for card in cards), Counter()).items())),
        treatments=dict(sorted(sum((Counter(card.treatments) for card in cards), Counter()).items())),
        skipped=[skipped for card in cards for skipped in card.skipped],
        seconds=round(seconds, 3),
        images_per_second=round(num_images / seconds, 1),
        part=None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""

    def work() -> None:
        path, card = merge(tyro.cli(Merge, args=argv))
        print(f"{path}\n{card}")

    return run_command(work, interrupted="interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
