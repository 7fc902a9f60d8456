"""Reads that do not come back: refused where that can be known, and otherwise left behind, by name."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders import BadSampleError, Batch, LoaderConfig, _native, build_loader
from loaders.native_loader import NativeLoader

pytestmark = pytest.mark.timeout(100)

NATIVE = Path(__file__).parents[1] / "native"


@pytest.fixture
def folder(tmp_path) -> Path:
    """An ImageFolder of two classes, each with three images; the fifth of all is to be another thing."""
    for number in range(6):
        path = tmp_path / "photos" / "ab"[number // 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(path)
    return tmp_path / "photos"


def config(**options) -> LoaderConfig:
    defaults = {"batch_size": 2, "resolution": 32, "crop": "whole", "order": "sequential", "drop_last": False}
    return LoaderConfig(**(defaults | {"num_workers": 2} | options))


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # an address has at most 107 bytes
        server.bind(path.name)


KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("backend", "num_workers"), [("native", 2), ("torch", 0), ("torch", 1), ("resident", 2)])
def test_what_is_no_file_is_refused_by_name(folder, kind, backend, num_workers, monkeypatch):
    monkeypatch.chdir(folder)
    bad = folder / "b" / "4.jpg"
    bad.unlink()
    KINDS[kind](bad)
    with pytest.raises(BadSampleError, match=rf"sample 4 \(.*b/4\.jpg\) cannot be decoded: it is {kind}, not a file"):
        list(build_loader(backend, folder, config(num_workers=num_workers)))
    loader = build_loader(backend, folder, config(num_workers=num_workers, on_error="skip"))
    assert sum(len(batch.index) for batch in loader) == 5
    loader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_is_no_file_is_refused_by_name(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / "train.tar")
    with pytest.raises(ValueError, match=rf"train\.tar: it is {kind}, not a file; name tar shards"):
        build_loader("native", tmp_path / "train.tar", config())


@pytest.fixture(scope="session")
def dead_disk(tmp_path_factory) -> dict[str, str]:
    """The environment of processes for which a `read` of 4.jpg never comes back."""
    library = tmp_path_factory.mktemp("dead") / "blocked_read.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(NATIVE / "blocked_read.c"), "-o", str(library), "-ldl"], check=True)
    return os.environ | {"LD_PRELOAD": str(library), "BLOCKED_READ": "b/4.jpg"}


LOAD = """
import os, signal, sys, threading, time, warnings
from pathlib import Path
from loaders import LoaderConfig, build_loader

def main(folder, how, **options):
    config = LoaderConfig(
        batch_size=2, resolution=32, crop="whole", order="sequential", drop_last=False, num_workers=2
    )
    loader = build_loader("native", Path(folder), config)
    batches = iter(loader)
    next(batches), next(batches)
    if how == "Ctrl-C":
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        started = time.monotonic() + 0.5
        try:
            next(batches)
        except KeyboardInterrupt:
            print("interrupted")
    if how == "close":
        time.sleep(0.5)
        started = time.monotonic()
    loader.close()
    print(time.monotonic() - started)
    try:
        iter(loader)
    except ValueError as error:
        print(error)

main(*sys.argv[1:])
print("at the end")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "close"])
def test_a_read_that_blocks_is_left_behind_by_name(folder, dead_disk, how):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), how], env=dead_disk, capture_output=True, text=True, timeout=60
    )
    *said, seconds, closed, end = done.stdout.splitlines()
    assert said == (["interrupted"] if how == "Ctrl-C" else [])
    assert float(seconds) < 5
    assert closed == "the loader is closed; build another one"
    assert (end, done.returncode) == ("at the end", 0), "the process ends, whatever its thread does"
    expected = (
        f"left 1 of its threads behind, which wait for {folder}/b/4.jpg: check the disk or the network file system"
    )
    assert expected in done.stderr
    assert "leaked" not in done.stderr


def test_a_loader_says_what_it_reads(folder, monkeypatch):
    """As the engine tells it; here nothing is read."""
    loader = build_loader("native", folder, config())
    assert loader.at_work() == []

    class Engine:
        def at_work(self):
            return [(4, 2.5)]

    monkeypatch.setattr(loader, "_engine", Engine())
    assert loader.at_work() == [(str(folder / "b" / "4.jpg"), 2.5)]
    monkeypatch.undo()
    loader.close()
    assert loader.at_work() == []


def engine_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_close_ends_the_threads_whoever_holds_the_engine(photo_set):
    before = engine_threads()
    loader = build_loader("native", photo_set.path, config(num_workers=5))
    held, batches = loader._engine, iter(loader)
    next(batches)
    assert engine_threads() == before + 5
    loader.close()
    assert engine_threads() == before
    with pytest.raises(RuntimeError, match="the engine is closed"):
        held.submit(np.zeros(1, np.int64), loader._rule(), np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="this epoch was ended before its last batch"):
        next(batches)


def batches_of(loader: NativeLoader) -> Iterator[Batch]:
    """The batches that come before another thread closes the loader."""
    try:
        yield from loader
    except ValueError as error:
        if not re.search("ended before its last batch|loader is closed", str(error)):
            raise


def test_a_loader_that_another_thread_closes_hands_over_no_unmade_batch(photo_set):
    """Every batch that comes is the right one, whenever the loader is closed."""
    options = {"order": "sequential", "batch_size": 4, "prefetch_batches": 3}
    whole = build_loader("native", photo_set.path, config(**options))
    expected = [batch.images.clone() for batch in whole]
    whole.close()
    for number in range(30):
        loader = build_loader("native", photo_set.path, config(**options))
        closing = threading.Timer(number * 2e-4, loader.close)
        closing.start()
        for batch, right in zip(batches_of(loader), expected, strict=False):
            assert batch.images.eq(right).all()
        closing.join()


def test_reading_a_file(tmp_path):
    path = tmp_path / "caf\udce9.jpg"
    for data in (b"", b"x" * 100_000):
        path.write_bytes(data)
        assert _native.read_file(os.fsencode(path)) == data
    with pytest.raises(OSError, match="the file cannot be opened: No such file or directory"):
        _native.read_file(os.fsencode(tmp_path / "nothing"))
    with pytest.raises(OSError, match="the file cannot be opened: Is a directory"):
        _native.read_file(os.fsencode(tmp_path))
