from pathlib import Path

import pytest

from tools.sources.names import checked_name, shard_names


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
