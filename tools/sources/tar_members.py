"""A tar archive's regular files, found by their headers alone, wherever the archive lies in a file.

What counts as damage is what `loaders/native/records/tar_index` calls so; that one reads whole shards, this one any
part of a file, such as an archive in an archive.

Source: POSIX.1-2001 (ustar and pax); https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from loaders.errors import FastvitError

__all__ = ["TarMember", "TarMembers"]

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAX_EXTENSION_BYTES = 1 << 20
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_PAX_LENGTH = re.compile(rb"([0-9]{1,7}) ")
_REGULAR, _WITHOUT_BYTES, _EXTENSIONS, _SPARSE = b"0\x007", b"123456", b"LKxXg", b"S"


class TarMember(NamedTuple):
    """A regular file in an archive."""

    name: str
    """Its path in the archive."""
    offset: int
    """Where its bytes begin, counted from the start of the file that holds the archive."""
    size: int
    """How many bytes it has."""


class TarMembers:
    """Iterates over the regular files of an archive in ustar, GNU, pax or the old V7 format, in their order.

    Other kinds of member are passed over. Each header's checksum is checked, and that what it tells of lies in the
    archive.

    Args:
        read: Fetches `size` bytes at `offset`, in this order, of the file that holds the archive.
        begin: Where in that file the archive begins.
        end: Where it ends.

    Raises:
        FastvitError: While iterating: the archive is damaged or cut short, or holds a sparse file. Byte numbers in the
            message count from the start of the file that holds the archive.
    """

    def __init__(self, read: Callable[[int, int], bytes], *, begin: int, end: int) -> None:
        self._read, self._end, self._position = read, end, begin
        self._extended: dict[str, bytes] = {}  # what headers before a member's own say of it

    def __iter__(self) -> Iterator[TarMember]:
        while (header := self._header()) is not None:
            kind = header[156:157]
            name = self._extended.get("path") or _own_name(header)
            if kind == b"\0" and name.endswith(b"/"):  # a folder in the V7 format
                kind = b"5"
            start, offset, size = self._position, self._position + _BLOCK, self._size(header, kind)
            self._position = offset + -(-size // _BLOCK) * _BLOCK
            if kind in _EXTENSIONS:
                self._extend(kind, start, self._read(size, offset))
                continue
            self._extended = {}
            if kind in _REGULAR:
                yield TarMember(name.decode("utf-8", "surrogateescape"), offset, size)

    def _header(self) -> bytes | None:
        """The header at the position, its checksum checked; None at the end mark."""
        if self._position > self._end - _BLOCK:
            self._fail("no header and no end mark", self._position)
        header = self._read(_BLOCK, self._position)
        if header == _ZEROS:
            if self._extended:
                self._fail("an extended header without a member", self._position)
            self._check_is_end()
            return None
        # The checksum itself counts as spaces.
        if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            self._fail("no header with a right checksum", self._position)
        return header

    def _size(self, header: bytes, kind: bytes) -> int:
        if kind in _WITHOUT_BYTES:
            return 0
        if kind in _SPARSE:
            self._fail("a sparse file, which cannot be read in place,", self._position)
        extended = None if kind in _EXTENSIONS else self._extended.get("size")
        size = _number(header[124:136]) if extended is None else int(extended)
        if size is None or size > self._end - self._position - _BLOCK:
            self._fail("a member that does not end in the archive", self._position)
        if kind in _EXTENSIONS and size > _MAX_EXTENSION_BYTES:
            self._fail("an extended header of more than 1 MiB", self._position)
        return size

    def _extend(self, kind: bytes, start: int, data: bytes) -> None:
        if kind == b"L":
            self._extended["path"] = data.partition(b"\0")[0]
        elif kind != b"K":
            self._read_pax(data, start, is_global=kind == b"g")

    def _read_pax(self, data: bytes, start: int, *, is_global: bool) -> None:
        r"""Take what matters out of records "LENGTH KEY=VALUE\n", where LENGTH counts the whole record."""
        while data:
            found = _PAX_LENGTH.match(data)
            record, data = (data[: int(found[1])], data[int(found[1]) :]) if found else (b"", b"")
            key, equals, value = record[found.end() if found else 0 :].partition(b"=")
            if not equals or not value.endswith(b"\n") or (found and len(record) != int(found[1])):
                self._fail("a pax header that is damaged", start)
            if key.startswith(b"GNU.sparse."):
                self._fail("a sparse file, which cannot be read in place,", start)
            if key not in (b"path", b"size"):
                continue
            if is_global:
                self._fail(f"a pax header with one {key.decode()} for all members", start)
            if key == b"size" and not (len(value) < 20 and value[:-1].isdigit()):
                self._fail(f"a pax header with the size {value[:-1][:40]!r}", start)
            self._extended[key.decode()] = value[:-1]

    def _check_is_end(self) -> None:
        for position in range(self._position, self._end, 1 << 20):
            size = min(1 << 20, self._end - position)
            if self._read(size, position).count(0) != size:
                self._fail("an end mark with more behind it", self._position)

    def _fail(self, problem: str, offset: int) -> NoReturn:
        raise FastvitError(
            f"{problem} at byte {offset} of {self._end}; not a tar archive, cut short or damaged: copy or write it "
            "again"
        )


def _own_name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if header[257:263] == b"ustar\0" and prefix else name


def _number(field: bytes) -> int | None:
    """Octal digits between spaces and NULs, or a big-endian number behind a byte of 0x80; None where it is neither."""
    if field[0] & 0x80:
        return None if field[0] & 0x40 else int.from_bytes(field) - (0x80 << 8 * (len(field) - 1))
    found = _OCTAL.fullmatch(field)
    return int(found[1] or b"0", 8) if found else None
