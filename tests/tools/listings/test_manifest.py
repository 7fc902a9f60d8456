"""Manifests: written and read back, damaged in every way; names with every kind of character."""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tools.listings.manifest import Manifest, escape, read_manifest, unescape, write_manifest

ODD_NAMES = (
    "a b.jpg",
    "tab\there",
    "new\nline",
    "car\rriage",
    "back\\slash",
    "\\t",
    "Übergröße",
    "\udcff\udc80",
    "# x",
)


class Sample(NamedTuple):
    label: int
    name: str


def make_manifest(path: Path, samples: list[Sample]) -> Manifest:
    return Manifest(
        path=path,
        source="folder, 99 images in 3 classes, sha256 0123",
        rule="fraction 2/3 of each class, largest remainders",
        seed=2**64 - 1,
        labels=np.array([sample.label for sample in samples], np.int64),
        names=[sample.name for sample in samples],
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    samples = [Sample(index * 7 % 3, name) for index, name in enumerate(ODD_NAMES)]
    return make_manifest(tmp_path / "subset.txt", samples[1:8:2])


@pytest.mark.parametrize("name", ODD_NAMES)
def test_escaping_can_be_undone(name: str):
    assert unescape(escape(name)) == name
    assert not set(escape(name)) & set("\t\n\r")


@pytest.mark.parametrize("text", ["\\", "a\\", "\\x", "\\\\\\", "\\\n"])
def test_a_backslash_that_escapes_nothing(text: str):
    with pytest.raises(ValueError, match=r"has a backslash that escapes nothing"):
        unescape(text)


def test_the_file_is_as_documented(tmp_path: Path):
    path = tmp_path / "subset.txt"
    write_manifest(make_manifest(path, [Sample(0, "a/1\t.jpg"), Sample(2, "b/\udcff.jpg")]))
    body = b"0\ta/1\\t.jpg\n2\tb/\xff.jpg\n"
    assert path.read_bytes().decode("latin-1") == (
        "# fastvit manifest 1\n"
        "# source: folder, 99 images in 3 classes, sha256 0123\n"
        "# rule: fraction 2/3 of each class, largest remainders\n"
        "# seed: 18446744073709551615\n"
        "# images: 2\n"
        f"# sha256: {hashlib.sha256(body).hexdigest()}\n" + body.decode("latin-1")
    )


def test_what_is_written_is_read(manifest: Manifest):
    write_manifest(manifest)
    read = read_manifest(manifest.path)
    for field in ("path", "source", "rule", "seed", "names", "sha256"):
        assert getattr(read, field) == getattr(manifest, field)
    np.testing.assert_array_equal(read.labels, manifest.labels)
    assert os.listdir(manifest.path.parent) == ["subset.txt"]


def with_checksum(content: bytes) -> bytes:
    """The file with the checksum that its lines have."""
    body = content.split(b"\n", 6)[6]
    return re.sub(b"sha256: [0-9a-f]{64}\n", b"sha256: %s\n" % hashlib.sha256(body).hexdigest().encode(), content)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"# fastvit manifest 1\n", b"# fastvit manifest 2\n", r"it begins with b'# fastvit manifest 2\\n', not"),
        (b"# fastvit manifest 1\n", b"", r"it begins with b'# source"),
        (b"# rule: ", b"# rules: ", r"line 3 is '# rules: .*expected '# rule: …'; copy it again, or make it again"),
        (b"# seed: 18446744073709551615\n", b"", r"line 4 is '# images: 4\\n', expected '# seed"),
        (b"# seed: 1", b"# seed: -1", r"its seed is '-18446744073709551615', no number"),
        (b"# images: 4", b"# images: 5", r"it has 4 images, its header says 5"),
        (b"\ttab", b"\ttub", r"the sha256 of its lines is [0-9a-f]{64}, its header says [0-9a-f]{64}; copy it again"),
    ],
)
def test_damage_is_named(manifest: Manifest, old: bytes, new: bytes, message: str):
    write_manifest(manifest)
    content = manifest.path.read_bytes()
    assert content.count(old) == 1
    manifest.path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match=f"subset.txt: {message}"):
        read_manifest(manifest.path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"1\ttab", b"tab", r"line 7: 'tab.*' is not LABEL<tab>NAME"),
        (b"1\ttab", b"one\ttab", r"line 7: 'one.*' is not LABEL<tab>NAME"),
        (b"1\ttab", b"-1\ttab", r"line 7: '-1.*' is not LABEL<tab>NAME"),
        (b"tab\\there", b"tab\there", r"line 7: '.*' is not LABEL<tab>NAME"),
        (b"tab\\there", b"tab\\here", r"line 7: 'tab.*here' has a backslash that escapes nothing"),
        (b"tab\\there", b"", r"line 7: '1\\t\\n' is not LABEL<tab>NAME"),
    ],
)
def test_lines_that_make_no_sense(manifest: Manifest, old: bytes, new: bytes, message: str):
    write_manifest(manifest)
    manifest.path.write_bytes(with_checksum(manifest.path.read_bytes().replace(old, new)))
    with pytest.raises(ValueError, match=f"subset.txt: {message}"):
        read_manifest(manifest.path)


def test_a_file_cut_short_anywhere_is_refused(manifest: Manifest):
    write_manifest(manifest)
    content = manifest.path.read_bytes()
    for length in range(len(content)):
        manifest.path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="subset.txt: .*make it again with fastvit-data make-subset"):
            read_manifest(manifest.path)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match=r"missing.txt: No such file or directory; name a manifest"):
        read_manifest(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match=r"Is a directory; name a manifest"):
        read_manifest(tmp_path)


def test_what_killed_processes_left_goes(tmp_path: Path):
    left = tmp_path / ".a.txt.99999999.tmp"  # no process has so high a number
    left.touch()
    write_manifest(make_manifest(tmp_path / "a.txt", []))
    assert not left.exists()
