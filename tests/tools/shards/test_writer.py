"""What holds for shards of every format."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.shards import writer
from tools.shards.format import ShardSample
from tools.shards.writer import SHARD_FORMATS, ShardWriter

pytestmark = pytest.mark.timeout(60)

# Of the shard and its index that SAMPLE makes: these bytes are the same on every machine and must stay what they are.
HASHES = {
    "tar": ("59594379f188d7f6", "63d6ffa2edfdb016"),
    "tfrecord": ("ed19cf6a6e5203fd", "e423c12b2e380f84"),
}
SAMPLE = ShardSample("a/0", b"image", "jpg", 7)


@pytest.fixture(params=SHARD_FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"train-000000.{request.param}"


def write(path: Path, *samples: ShardSample) -> None:
    with ShardWriter(path, SHARD_FORMATS[path.suffix[1:]](1000)) as shard:
        for sample in samples:
            shard.append(*sample)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_the_bytes_are_always_the_same(path: Path, shard_samples: list[ShardSample]):
    write(path, SAMPLE)
    hashes = tuple(hashlib.sha256(contents(path)[name]).hexdigest()[:16] for name in (path.name, "train-000000.idx"))
    assert hashes == HASHES[path.suffix[1:]]
    write(path, *shard_samples)
    first = contents(path)
    assert sorted(first) == ["train-000000.idx", path.name]
    assert len(first[path.name]) > sum(len(sample.image) for sample in shard_samples)
    write(path, *shard_samples)
    assert contents(path) == first


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [[], [SAMPLE]], ids=["new", "old"])
def test_an_exception_leaves_what_was_there(path: Path, error: type[BaseException], old: list[ShardSample]):
    if old:
        write(path, *old)
    before = contents(path)

    def write_and_fail() -> None:
        with ShardWriter(path, SHARD_FORMATS[path.suffix[1:]](1000)) as shard:
            shard.append(*SAMPLE._replace(image=bytes(100_000)))
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert contents(path) == before
    with pytest.raises(ValueError, match="no sample was written"):
        write(path)
    assert contents(path) == before


def test_the_index_comes_first_and_never_beside_an_older_shard(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The machine may stop at any time: after every step on disk, a shard that is there has its own index."""
    write(path, SAMPLE)
    new = [SAMPLE, SAMPLE._replace(key="b")]
    states = []

    def noted(name: str) -> None:
        function = getattr(Path, name)

        def note(self: Path, *arguments: object, **options: object) -> object:
            result = function(self, *arguments, **options)
            states.append({file: data for file, data in contents(path).items() if not file.endswith(".tmp")})
            return result

        monkeypatch.setattr(Path, name, note)

    old = contents(path)
    noted("replace")
    noted("unlink")
    write(path, *new)
    monkeypatch.undo()
    write(path, *new)
    complete = contents(path)
    assert states[-1] == complete != old
    assert all(state in (old, complete) for state in states if path.name in state)


LIMITED_WRITER = """
import os, resource, sys
from pathlib import Path
from tools.shards.writer import SHARD_FORMATS, ShardWriter
path = Path(sys.argv[1])
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        with ShardWriter(path, SHARD_FORMATS[path.suffix[1:]](10)) as shard:
            for number in range(3):
                shard.append(str(number), bytes(100_000), "jpg", 3)
    except ValueError as error:
        print(error, os.listdir(path.parent))
"""


def test_a_full_disk_leaves_nothing(path: Path):
    write(path, *(SAMPLE._replace(key=str(number), image=bytes(100_000)) for number in range(3)))
    size = path.stat().st_size
    for file in path.parent.iterdir():
        file.unlink()
    limits = [0, 100, 150_000, size - 1]  # the last while what is left in memory is written at the end
    command = [sys.executable, "-c", LIMITED_WRITER, path, *map(str, limits)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    message = f"{path}: cannot be written: File too large; make room there or choose another place []\n"
    assert result.stdout == message * len(limits)
    assert result.stderr == ""


@pytest.mark.parametrize("suffix", [".idx", None])
def test_a_folder_in_the_way_is_named(path: Path, suffix: str | None):
    folder = path.with_suffix(suffix) if suffix else path
    folder.mkdir()
    with pytest.raises(ValueError, match=rf"{folder.name}: cannot be written: it is a folder"):
        write(path, SAMPLE)
    assert os.listdir(path.parent) == [folder.name]


def test_shards_of_two_formats_do_not_share_an_index(tmp_path: Path):
    for other, path in [("tar", tmp_path / "a.tfrecord"), ("tfrecord", tmp_path / "b.tar")]:
        write(path, SAMPLE)
        before = contents(path)
        with pytest.raises(ValueError, match=rf"\.{other}: cannot be written: its index would replace that of {path}"):
            write(path.with_suffix(f".{other}"), SAMPLE)
        assert contents(path) == before


def test_a_missing_folder_is_named(path: Path):
    with pytest.raises(ValueError, match=r"train-000000\..*: cannot be written: No such file or directory"):
        write(path.parent / "missing" / path.name, SAMPLE)


@pytest.mark.parametrize("key", ["", "a.b", "a b", "é", "a\n", "/a", "a/", "a//b", "../a", "a\\b", "x" * 97])
def test_keys_that_a_reader_would_take_for_something_else(path: Path, key: str):
    with pytest.raises(ValueError, match=r"sample 1 \(.*\): its key is not 1 to 96 ASCII letters"):
        write(path, SAMPLE, SAMPLE._replace(key=key))
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (SAMPLE, "another sample of this key"),
        (SAMPLE._replace(key="b", image=b""), "its image has 0 bytes"),
        (SAMPLE._replace(key="b", image=bytes(101)), "its image has 101 bytes; leave out what is not 1 to 100"),
        (SAMPLE._replace(key="b", label=-1), "label -1 is negative"),
        (SAMPLE._replace(key="b", label=2**63), f"label {2**63} "),
    ],
)
def test_samples_that_cannot_be_written_are_named(path: Path, monkeypatch, sample: ShardSample, message: str):
    monkeypatch.setattr(writer, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(ValueError, match=rf"train-000000\.\w+: sample 1 \('{sample.key}'\): .*{message}"):
        write(path, SAMPLE, sample)
    assert os.listdir(path.parent) == []
