"""Record lists: written and read back, as journals with a torn end, and damaged."""

from pathlib import Path

import pytest

from loaders.companions import record_list_path
from tools.listings.record_list import RecordLine, SkippedLine, format_line, read_record_list

LINES = [
    RecordLine(0xDEADBEEF, 109_527, "jpg", 375, 500, 0, "kept", "n01440764/n01440764_10026.JPEG"),
    SkippedLine(12, "it is\ncut short\tat 5\\", "odd\tname\r.jpg"),
    RecordLine(7, 3072, "raw", 32, 32, 9, "re-encoded", "\udcff\\Ü # x"),
    RecordLine(0, 1, "png", 1, 65_535, 999, "resized", "skipped"),
]


def write(path: Path, lines: list[RecordLine | SkippedLine] = LINES) -> bytes:
    content = b"".join(map(format_line, lines))
    path.write_bytes(content)
    return content


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record_list_path(tmp_path / "train.beton")


def test_it_lies_beside_its_file(path: Path):
    assert path.name == "train.beton.records.tsv"
    assert record_list_path(Path("a/b-000000.tar")) == Path("a/b-000000.tar.records.tsv")


def test_the_lines_are_as_documented():
    assert [format_line(line) for line in LINES[:2]] == [
        b"deadbeef\t109527\tjpg\t375\t500\t0\tkept\tn01440764/n01440764_10026.JPEG\n",
        b"skipped\t12\tit is\\ncut short\\tat 5\\\\\todd\\tname\\r.jpg\n",
    ]


@pytest.mark.parametrize("complete", [True, False])
def test_what_is_written_is_read(path: Path, complete: bool):
    write(path)
    assert list(read_record_list(path, complete=complete)) == LINES
    write(path, [])
    assert list(read_record_list(path, complete=complete)) == []


def test_it_is_read_line_by_line(path: Path):
    path.write_bytes(write(path) + b"garbage\n")
    lines = read_record_list(path)
    assert [next(lines) for _ in LINES] == LINES
    with pytest.raises(ValueError, match="line 5"):
        next(lines)


def test_a_journal_torn_anywhere_gives_its_whole_lines(path: Path):
    content = write(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        num_whole = content[:length].count(b"\n")
        assert list(read_record_list(path, complete=False)) == LINES[:num_whole]
        if length and content[length - 1 : length] != b"\n":
            with pytest.raises(ValueError, match=rf"train.beton.records.tsv: line {num_whole + 1} is '.*cut short"):
                list(read_record_list(path))


def test_a_journal_that_ends_in_zeros(path: Path):
    path.write_bytes(write(path) + bytes(4096))
    assert list(read_record_list(path, complete=False)) == LINES


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"deadbeef", b"deadbee"),
        (b"deadbeef", b"DEADBEEF"),
        (b"109527", b"-1"),
        (b"109527", "\N{FULLWIDTH DIGIT ONE}".encode()),
        (b"\tjpg\t", b"\tgif\t"),
        (b"\t375\t500", b"\t375"),
        (b"\tkept\t", b"\t\t"),
        (b"\tkept\t", b"\tkept\tkept\t"),
        (b".JPEG\n", b"\\.JPEG\n"),
        (b"skipped\t12", b"skiped\t12"),
        (b"skipped\t12", b"skipped\ttwelve"),
        (b".JPEG\n", b".JPEG\n\n"),
        (b".JPEG\n", b".JPEG\r"),
    ],
)
def test_damage_within_is_named(path: Path, old: bytes, new: bytes):
    content = write(path)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"train.beton.records.tsv: line [12] is '.*', no whole line of a record list"):
        list(read_record_list(path))
    found = list(read_record_list(path, complete=False))  # ends before the damage
    assert len(found) < 2
    assert found == LINES[: len(found)]


def test_a_list_that_is_not_there(path: Path):
    with pytest.raises(ValueError, match=r"records.tsv: No such file or directory; the record list must be readable"):
        list(read_record_list(path))
