"""Files that are cut short while they are read: named, where the system would end the process with SIGBUS."""

import io
import mmap
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends import of_backend
from loaders import BadSampleError, LoaderConfig, _native, build_loader
from loaders.beton import Beton, BetonError
from loaders.errors import FastvitError
from loaders.records import BetonRecords, ShardRecords
from loaders.tar_shard import TarShard

pytestmark = pytest.mark.timeout(60)

SHORTER = "has become shorter since it was opened"
PAGE = mmap.PAGESIZE


@pytest.fixture
def beton(make_set) -> Path:
    """100 raw images of 32 px, some 300 KB."""
    return make_set("cut.beton", 100).path


@pytest.fixture
def shard(tmp_path, raw_set, encode_jpeg) -> Path:
    """A tar shard of 20 JPEGs, each in two pages or more."""
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(raw_set.images[:20]):
            for ending, data in {"jpg": encode_jpeg(np.tile(image, (4, 4, 1))), "cls": b"1"}.items():
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def cut(path: Path, size: int) -> None:
    assert size < path.stat().st_size
    os.truncate(path, size)


def epoch(backend: str, path: Path, cut_to: int, **options) -> Iterator[list[int]]:
    """The indices of the batches that come; the file is cut after the first one."""
    config = LoaderConfig(
        batch_size=5,
        resolution=32,
        crop="whole",
        order="sequential",
        drop_last=False,
        **({"num_workers": 2} | options),
    )
    loader = build_loader(backend, path, config)
    try:
        for number, batch in enumerate(loader):
            if number == 0:
                cut(path, cut_to)
            yield batch.index.tolist()
    finally:
        loader.close()


@pytest.mark.parametrize(
    ("backend", "num_workers"),
    [of_backend("dali", "dali", 2), ("native", 2), ("nvjpeg", 2), ("torch", 0), ("torch", 1)],
)
@pytest.mark.parametrize("kind", ["beton", "shard"])
def test_a_loader_names_the_sample(backend, num_workers, kind, request):
    path = request.getfixturevalue(kind)
    name = "record .* of .*cut.beton" if kind == "beton" else r"cut.tar: image \d+"
    with pytest.raises(BadSampleError, match=rf"sample \d+ \(.*{name}\) cannot be decoded: the file {SHORTER}"):
        list(epoch(backend, path, 2 * PAGE, num_workers=num_workers))


def test_no_image_comes_of_the_zeros(beton, raw_set):
    loader = build_loader(
        "native",
        beton,
        LoaderConfig(batch_size=100, resolution=32, crop="whole", order="random", drop_last=False, on_error="skip"),
    )
    cut(beton, beton.stat().st_size // 2)
    (batch,) = loader
    loader.close()
    assert len(batch.index) + len(loader.skipped) == 100
    assert (batch.images.amax((1, 2, 3)) > 0).all()
    assert all(SHORTER in sample.reason for sample in loader.skipped)


def test_resident_names_the_sample(beton, monkeypatch):
    """It reads the file only while it is built."""
    decode = BetonRecords.decode

    def cut_then_decode(records, index, **options):
        if index == 50:
            os.truncate(beton, PAGE)
        return decode(records, index, **options)

    monkeypatch.setattr(BetonRecords, "decode", cut_then_decode)
    config = LoaderConfig(batch_size=5, resolution=32, crop="whole", order="sequential", drop_last=False, num_workers=1)
    with pytest.raises(BadSampleError, match=rf"sample 50 .*{SHORTER}"):
        build_loader("resident", beton, config)


@pytest.mark.parametrize("size", [1, PAGE, PAGE + 1, 5 * PAGE, -PAGE, -20])
def test_readers_name_the_file(beton, size):
    """Wherever it is cut, in the last page too, where the system gives zeros instead of SIGBUS."""
    with Beton(beton) as file:
        first, last = file.image_bytes(0), file.image_bytes(99)
        cut(beton, size % beton.stat().st_size)
        int(first.sum()), int(last.sum())  # lives on, with zeros
        for use in (file.check_is_whole, lambda: file.image_bytes(0)):
            with pytest.raises(BetonError, match=rf"cut\.beton: the file {SHORTER}.*; copy or write it again"):
                use()


def test_a_shard_names_itself(shard):
    file = TarShard(shard)
    last = file.image_bytes(19)
    cut(shard, PAGE)
    int(last.sum())
    with pytest.raises(FastvitError, match=rf"cut\.tar: the file {SHORTER}"):
        file.image_bytes(0)
    assert ShardRecords.name  # its records have names without the headers that are gone
    assert file.member_name(3) == "image 3"


def test_zeros_lost_at_the_end_are_no_loss(tmp_path):
    path = tmp_path / "zeros"
    path.write_bytes(b"x" * PAGE + b"y" + bytes(PAGE - 1))
    file = _native.map_file(os.fsencode(path))
    cut(path, PAGE + 100)
    assert _native.is_whole(file)
    cut(path, PAGE)
    assert not _native.is_whole(file)


def test_a_file_that_is_cut_is_no_matter_of_others(tmp_path, beton):
    other = tmp_path / "other"
    other.write_bytes(b"x" * 3 * PAGE)
    whole, gone = Beton(beton), _native.map_file(os.fsencode(other))
    cut(other, 0)
    assert not _native.is_whole(gone)
    assert (gone == 0).all()
    whole.check_is_whole()
    del gone
    again = _native.map_file(os.fsencode(beton))  # in the entry of the one before
    assert _native.is_whole(again)


FOREIGN = {
    "a mapping of somebody else": """
        import mmap
        with open(other, "wb+") as file:
            file.write(b"x" * 100_000)
            file.flush()
            mapped = mmap.mmap(file.fileno(), 100_000)
            os.truncate(other, 10)
            mapped[90_000]
        """,
    "a signal that was sent": "os.kill(os.getpid(), signal.SIGBUS)",
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("handler", [[], ["-X", "faulthandler"]])
def test_other_bus_errors_end_the_process_as_before(beton, tmp_path, what, handler):
    begin = f"""
        import os, signal
        from loaders.beton import Beton
        beton, other = Beton({str(beton)!r}), {str(tmp_path / "other")!r}
        """
    script = textwrap.dedent(begin) + textwrap.dedent(FOREIGN[what])
    done = subprocess.run([sys.executable, *handler, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGBUS
    assert ("Fatal Python error: Bus error" in done.stderr) == bool(handler)


def test_a_forked_child_is_told_too(beton):
    with Beton(beton) as file:
        cut(beton, PAGE)
        child = os.fork()
        if not child:
            try:
                file.image_bytes(99)
            except BetonError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
