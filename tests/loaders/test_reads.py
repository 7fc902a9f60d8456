"""Reads that do not come back: refused where that can be known, and otherwise left behind, by name."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backends import of_backend
from loaders import BadSampleError, Batch, LoaderConfig, _native, build_loader
from loaders.native_loader import NativeLoader
from loaders.reads import ReaderThreads

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
@pytest.mark.parametrize(
    ("backend", "num_workers"),
    [of_backend("dali", "dali", 2), ("native", 2), ("nvjpeg", 2), ("torch", 0), ("torch", 1), ("resident", 2)],
)
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
    return os.environ | {"LD_PRELOAD": str(library), "BLOCKED_READ": "b/4.jpg", "PYTHONPATH": str(NATIVE.parent)}


LOAD = """
import os, signal, sys, threading, time
from pathlib import Path
from loaders import BACKENDS, LoaderConfig, build_loader
from loaders import native_loader, resident_loader, torch_loader
if sys.argv[2] == "dali":
    from loaders import dali_loader
if sys.argv[2] == "nvjpeg":
    from nvjpeg_on_cpu import nvjpeg_on_cpu
    on_cpu = nvjpeg_on_cpu()
    on_cpu.__enter__()

def interrupt():
    global started
    started = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

folder, backend, how = sys.argv[1:]
started = time.monotonic()
config = LoaderConfig(batch_size=1, resolution=32, crop="whole", order="sequential", drop_last=False, num_workers=2)
if how == "Ctrl-C":
    threading.Timer(2, interrupt).start()
loader = None
try:
    loader = build_loader(backend, Path(folder), config)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
        # A thread of native reads one image while it still decodes another: before number 4 is read, 2 is to be done.
        time.sleep(0.2)
    if how == "close":
        time.sleep(0.5)
        started = time.monotonic()
        print(loader.at_work())
    else:
        list(batches)
except KeyboardInterrupt:
    print("interrupted")
if loader is not None:
    loader.close()
print(time.monotonic() - started)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "close"])
@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "nvjpeg", "torch", "resident"])
def test_a_read_that_blocks_is_left_behind_by_name(folder, dead_disk, backend, how):
    if (backend, how) == ("resident", "close"):
        pytest.skip("it reads while it is built, when there is nothing to close")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), backend, how],
        env=dead_disk,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, "the process ends, whatever its threads do"
    said, seconds = done.stdout.splitlines()
    assert said == "interrupted" if how == "Ctrl-C" else f"('{folder}/b/4.jpg', 0." in said
    assert float(seconds) < 5
    workers = "processes" if backend == "torch" else "threads"
    expected = f"left behind: 1 of the loader's {workers}, still reading {folder}/b/4.jpg: check"
    assert expected in done.stderr
    assert "leaked" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_conversion_leaves_a_read_behind_by_name(folder, dead_disk, tmp_path):
    out = tmp_path / "out.beton"
    options = ["--dataset", "folder", "--source", str(folder), "--out", str(out), "--num-workers", "2"]
    command = [sys.executable, "-m", "tools.write_ffcv", *options]
    process = subprocess.Popen(command, env=dead_disk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not out.with_name("out.beton.partial").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - started < 20, "seconds, on a machine that is busy"
    assert process.returncode == 130
    assert f"left behind: 1 of the converter's threads, still reading {folder}/b/4.jpg" in said
    assert "interrupted; continue with the same options and --resume" in said


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


def engine_threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_close_ends_the_threads_whoever_holds_the_engine(photo_set):
    before = engine_threads()
    loader = build_loader("native", photo_set.path, config(num_workers=5))
    held, batches = loader._engine, iter(loader)
    next(batches)
    started = engine_threads() - before
    assert len(started) == 5
    loader.close()
    assert not started & engine_threads()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        held.submit(np.zeros(1, np.int64), loader._config.crop_rule(0), np.zeros((1, 32, 32, 3), np.uint8))
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


def test_reader_threads_call_in_order():
    threads, called = ReaderThreads(1), []
    futures = [threads.submit(partial(called.append, number)) for number in range(5)]
    assert [future.result() for future in futures] == [None] * 5
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result()
    assert called == list(range(5))
    assert threads.close() == []


def test_reader_threads_leave_behind_what_does_not_return(monkeypatch):
    monkeypatch.setattr("loaders.reads.PATIENCE_SECONDS", 0.1)
    begun, end, threads = threading.Barrier(3), threading.Event(), ReaderThreads(2)

    def read(name: str) -> bool:
        threads.at(lambda: name)
        begun.wait(10)
        return end.wait(10)

    stuck = [threads.submit(partial(read, name)) for name in ("a.jpg", "b.jpg")]
    never = threads.submit(int)
    begun.wait(10)
    assert sorted(threads.close()) == ["a.jpg", "b.jpg"]
    end.set()
    assert [future.result(10) for future in stuck] == [True, True]
    assert not never.done()


SMALL_SHARED_MEMORY = """
mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 77
"$0" -c '
import sys
from pathlib import Path
from loaders import LoaderConfig, build_loader
config = LoaderConfig(
    batch_size=10, resolution=int(sys.argv[2]), crop="whole", order="sequential", drop_last=False, num_workers=2
)
try:
    list(build_loader("torch", Path(sys.argv[1]), config))
except ValueError as error:
    print(error)
' "$@"
"""


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [32, 224])
def test_workers_without_shared_memory_are_one_message(make_set, resolution):
    """Of 224 px no batch fits; of 32 px some do, until something small does not."""
    path = make_set("many.beton", 100).path
    command = ["unshare", "--mount", "bash", "-c", SMALL_SHARED_MEMORY, sys.executable, str(path), str(resolution)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this user may not mount")
    assert "/dev/shm has no room for them (0 MB in all); make it larger" in done.stdout, done.stderr


def test_reading_a_file(tmp_path):
    path = tmp_path / "caf\udce9.jpg"
    for data in (b"", b"x" * 100_000):
        path.write_bytes(data)
        assert _native.read_file(os.fsencode(path)) == data
    with pytest.raises(OSError, match="the file cannot be opened: No such file or directory"):
        _native.read_file(os.fsencode(tmp_path / "nothing"))
    with pytest.raises(OSError, match="the file cannot be opened: Is a directory"):
        _native.read_file(os.fsencode(tmp_path))
