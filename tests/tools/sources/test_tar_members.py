"""Archives of every format, within another file, and every way in which one can be damaged."""

import io
import tarfile

import numpy as np
import pytest

from tools.sources.tar_members import TarMember, TarMembers

pytestmark = pytest.mark.timeout(60)

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
DEEP = "/".join(["a folder with a rather long name"] * 5)  # ustar splits it, GNU and pax need a header of its own
END = bytes(1024)


def members(content: bytes, begin: int = 0, end: int | None = None) -> list[TarMember]:
    read = lambda size, offset: content[offset : offset + size]  # noqa: E731
    return list(TarMembers(read, begin=begin, end=len(content) if end is None else end))


def tar_bytes(files: dict[str, bytes], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def header(
    name: bytes = b"a.jpg", *, kind: bytes = b"0", size: bytes = b"00000000005\0", magic: bytes = b"ustar\00000"
):
    block = bytearray(512)
    block[: len(name)], block[124:136], block[156:157] = name, size, kind
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def extension(kind: bytes, data: bytes) -> bytes:
    return header(b"extension", kind=kind, size=b"%011o\0" % len(data)) + padded(data)


IMAGE = header() + padded(b"image")


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ["a.jpg", "./dot/a.jpg", f"{DEEP}/a.jpg", f"{DEEP}/Übergröße", "x" * 100])
def test_what_tarfile_writes(tar_format: int, name: str):
    files = {name: b"first", f"{name}2"[1:]: bytes(range(256)) * 5, "empty": b""}
    content = tar_bytes(files, tar_format)
    outer = b"before" * 100 + content + b"behind"
    found = members(outer, 600, 600 + len(content))
    assert {member.name: outer[member.offset :][: member.size] for member in found} == files


def test_names_that_are_no_utf8_keep_their_bytes():
    content = header(b"\xff.jpg") + padded(b"image") + END
    assert members(content)[0].name.encode("utf-8", "surrogateescape") == b"\xff.jpg"


def test_other_kinds_of_member_are_passed_over():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("other")
            member.type, member.linkname = kind, "x" * 300
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("a.jpg"))
    assert [member.name for member in members(buffer.getvalue())] == ["a.jpg"]
    v7_folder = header(b"folder/", kind=b"\0", magic=b"", size=b"77777777777\0")
    assert [member.name for member in members(v7_folder + IMAGE + END)] == ["a.jpg"]


def test_sizes_and_names_in_unusual_forms():
    big_endian = b"\x80" + (5).to_bytes(11)
    for content in (
        header(size=big_endian) + padded(b"image"),
        header(size=b"         5 \0") + padded(b"image"),
        extension(b"x", b"14 path=a.jpg\n10 size=5\n") + header(b"x", size=b"\0" * 12) + padded(b"image"),
        extension(b"K", b"target") + extension(b"L", b"a.jpg\0") + header(b"x") + padded(b"image"),
    ):
        (member,) = members(content + END)
        assert (member.name, content[member.offset :][: member.size]) == ("a.jpg", b"image")


DAMAGED = {
    "empty": (b"", "no header and no end mark at byte 0 of 0"),
    "gzip": (b"\x1f\x8b" + bytes(2000), "no header with a right checksum at byte 0 of 2002"),
    "text": (b"no tar" * 500, "no header with a right checksum at byte 0 of 3000"),
    "no end mark": (IMAGE, "no header and no end mark at byte 1024 of 1024"),
    "cut in the padding": (IMAGE[:-1], "no header and no end mark at byte 1024 of 1023"),
    "cut in a member": (
        header(size=b"00000001000\0") + bytes(511),
        "a member that does not end in the archive at byte 0",
    ),
    "two archives": (IMAGE + END + IMAGE + END, "an end mark with more behind it at byte 1024"),
    "a flipped bit": (IMAGE + bytes([IMAGE[0] ^ 1]) + IMAGE[1:] + END, "no header with a right checksum at byte 1024"),
    "huge": (header(size=b"77777777777\0") + END, "a member that does not end in the archive at byte 0"),
    "minus": (header(size=b"-0000000005\0") + END, "a member that does not end in the archive at byte 0"),
    "underscore": (header(size=b"000_0000005\0") + END, "a member that does not end in the archive at byte 0"),
    "negative": (header(size=b"\xff" * 12) + END, "a member that does not end in the archive at byte 0"),
    "beyond 64 bits": (
        header(size=b"\x80" + b"\x7f" * 11) + END,
        "a member that does not end in the archive at byte 0",
    ),
    "sparse": (header(kind=b"S") + padded(b"image") + END, "a sparse file, which cannot be read in place, at byte 0"),
    "pax sparse": (extension(b"x", b"22 GNU.sparse.major=1\n") + IMAGE + END, "a sparse file"),
    "pax size": (extension(b"x", b"11 size=-5\n") + IMAGE + END, "a pax header with the size b'-5' at byte 0"),
    "pax size of too many digits": (
        extension(b"x", b"5009 size=" + b"9" * 4998 + b"\n") + IMAGE + END,
        "pax header with",
    ),
    "pax for all": (extension(b"g", b"14 path=a.jpg\n") + IMAGE + END, "a pax header with one path for all members"),
    "pax length": (extension(b"x", b"99 path=a.jpg\n") + IMAGE + END, "a pax header that is damaged at byte 0"),
    "pax length 0": (extension(b"x", b"0 path=a.jpg\n") + IMAGE + END, "a pax header that is damaged at byte 0"),
    "pax without =": (extension(b"x", b"8 path1\n") + IMAGE + END, "a pax header that is damaged at byte 0"),
    "an extension alone": (extension(b"L", b"a.jpg\0") + END, "an extended header without a member at byte 1024"),
    "a large extension": (
        header(kind=b"L", size=b"00004000001\0") + bytes(1 << 21),
        "an extended header of more than 1 MiB",
    ),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(content: bytes, message: str):
    with pytest.raises(ValueError, match=message):
        members(content)


def test_damage_anywhere_is_an_error_or_harmless():
    """Bytes changed at random, the checksum made right again: no other exception, no member outside the archive."""
    rng = np.random.default_rng(0)
    whole = extension(b"x", b"14 path=a.jpg\n10 size=5\n") + header(b"x") + padded(b"image") + IMAGE + END
    num_errors = 0
    for _ in range(3000):
        content = bytearray(whole)
        for start in (0, 1024):
            block = content[start : start + 512]
            for position in rng.integers(0, 512, 2):
                block[rng.choice([position, rng.integers(124, 136), 156])] = rng.integers(256)
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            content[start : start + 512] = block
        content[512 + rng.integers(30)] = rng.integers(256)
        try:
            assert all(0 <= member.offset <= len(whole) - member.size for member in members(bytes(content)))
        except ValueError:
            num_errors += 1
    assert 500 < num_errors < 3000
