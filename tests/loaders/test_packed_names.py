"""Many names in little memory."""

import pytest

from loaders.packed_names import PackedNames


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
