from pathlib import Path

import pytest

from tools.sources.names import PackedNames, checked_name, folder_order, shard_names


def test_packed_names_are_a_sequence():
    names = ["a/b.jpg", "", "Übergröße", "bad \udcff byte", "tab\t\n"]
    packed = PackedNames(names[:2])
    packed.extend(names[2:])
    assert list(packed) == names
    assert len(packed) == 5
    assert packed[-1] == names[-1]
    for index in (5, -6):
        with pytest.raises(IndexError):
            packed[index]


def test_packed_names_take_little_memory():
    packed = PackedNames(f"n{number:08}/n{number:08}.JPEG" for number in range(10_000))
    assert len(packed._text) + len(packed._ends) * packed._ends.itemsize < 35 * 10_000


def test_folder_order_is_that_of_sorted_folders():
    names = ["2", "b/1", "10", "b/c/1", "b-/1", "a"]
    assert sorted(names, key=folder_order) == ["10", "2", "a", "b/1", "b-/1", "b/c/1"]


def test_names_that_lead_out_of_the_archive():
    assert [checked_name(name) for name in ("a.jpg", "./a/b.jpg", "a//b", "..a/b..")] == [
        "a.jpg",
        "a/b.jpg",
        "a/b",
        "..a/b..",
    ]
    for name in ("/etc/passwd", "../a", "a/../../b", "a/.."):
        with pytest.raises(ValueError, match=r"leads out of the archive"):
            checked_name(name)


def test_shards_of_one_name_in_different_folders():
    assert shard_names([Path("/data/a/x-1.tar"), Path("/data/a/x-2.tar")]) == ["x-1.tar", "x-2.tar"]
    assert shard_names([Path("/data/a/x-1.tar"), Path("/data/b/x-1.tar")]) == ["a/x-1.tar", "b/x-1.tar"]
    assert shard_names([Path("x.tar")]) == ["x.tar"]
