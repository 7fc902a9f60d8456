"""What a converter wrote: one line for each sample of its source, in the order in which they were written.

The list lies next to the file that it is about (`loaders.companions.record_list_path`). Its columns are separated by
tabs, text is escaped as in a manifest and UTF-8; bytes of names that are not stay as they are.

    CRC32 NUM_BYTES FORMAT HEIGHT WIDTH LABEL TREATMENT NAME        a sample that became the next record
    skipped LABEL REASON NAME                                       a sample that was left out

A converter that was interrupted goes on from it, so it is written line by line and its last line may be torn.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loaders.errors import FastvitError
from tools.listings.manifest import escape, unescape

__all__ = ["RecordLine", "SkippedLine", "format_line", "read_record_list"]

_NUMBER = r"([0-9]{1,18})"
_TEXT = r"([^\t]+)"
_RECORD = re.compile("\t".join(["([0-9a-f]{8})", _NUMBER, "(jpg|png|raw)", _NUMBER, _NUMBER, _NUMBER, _TEXT, _TEXT]))
_SKIPPED = re.compile("\t".join(["skipped", _NUMBER, _TEXT, _TEXT]))


class RecordLine(NamedTuple):
    """A sample that was written."""

    crc32: int
    """`zlib.crc32` of the stored bytes."""
    num_bytes: int
    """How many bytes are stored."""
    format: str
    """What they are: `jpg`, `png` or `raw` (pixels, uint8 [height, width, 3])."""
    height: int
    width: int
    label: int
    treatment: str
    """What became of the image: a `tools.convert.encode_image.Treatment`."""
    name: str
    """The sample's name in its source."""


class SkippedLine(NamedTuple):
    """A sample that was left out."""

    label: int
    reason: str
    name: str
    """The sample's name in its source."""


def format_line(line: RecordLine | SkippedLine) -> bytes:
    """One line of a record list, its newline included."""
    if isinstance(line, RecordLine):
        columns = [f"{line.crc32:08x}", *map(str, line[1:6]), escape(line.treatment), escape(line.name)]
    else:
        columns = ["skipped", str(line.label), escape(line.reason), escape(line.name)]
    return ("\t".join(columns) + "\n").encode("utf-8", "surrogateescape")


def read_record_list(path: Path, *, complete: bool = True) -> Iterator[RecordLine | SkippedLine]:
    """Read a record list line by line.

    Args:
        path: The list itself.
        complete: The list must be whole. Otherwise it ends before its first damaged line, such as a torn last one.

    Raises:
        FastvitError: A line is damaged (the message names file and line), or the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for number, text in enumerate(file, start=1):
                if text.endswith("\n") and (line := _parse(text[:-1])):
                    yield line
                elif not complete:
                    return
                else:
                    raise FastvitError(
                        f"{path}: line {number} is {text.rstrip()[:80]!r}, no whole line of a record list; the list is "
                        "damaged or cut short: copy it again"
                    )
    except OSError as error:
        raise FastvitError(f"{path}: {error.strerror}; the record list must be readable") from error


def _parse(text: str) -> RecordLine | SkippedLine | None:
    """The line that `text` is, or None."""
    try:
        if parts := _RECORD.fullmatch(text):
            crc32, num_bytes, image_format, height, width, label, treatment, name = parts.groups()
            return RecordLine(
                int(crc32, 16),
                int(num_bytes),
                image_format,
                int(height),
                int(width),
                int(label),
                unescape(treatment),
                unescape(name),
            )
        if parts := _SKIPPED.fullmatch(text):
            return SkippedLine(int(parts[1]), unescape(parts[2]), unescape(parts[3]))
    except ValueError:  # a backslash that escapes nothing
        pass
    return None
