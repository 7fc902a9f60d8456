"""FFCV's writer, measured against, converts what our tools do, and ends where FFCV would wait for ever."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from loaders.beton import Beton

pytest.importorskip("ffcv", exc_type=ImportError)
from benchmarks.peers.ffcv_writer import write
from tools.write_ffcv import WriteFfcv, write_ffcv


@pytest.mark.parametrize(("max_side", "widest"), [(None, 600), (500, 500)])
def test_the_images_and_labels_that_our_writer_stores(image_folder, tmp_path, max_side, widest):
    write(image_folder, tmp_path / "theirs.beton", max_side=max_side, num_workers=2)
    options = {"mode": "reencode", "max_side": max_side or 0}
    write_ffcv(WriteFfcv(dataset="folder", source=image_folder, out=tmp_path / "ours.beton", **options))
    with Beton(tmp_path / "theirs.beton") as theirs, Beton(tmp_path / "ours.beton") as ours:
        assert theirs.widths.max() == widest
        assert np.array_equal(theirs.modes, ours.modes)
        assert np.array_equal(theirs.widths, ours.widths)
        assert np.array_equal(theirs.heights, ours.heights)
        assert np.array_equal(theirs.labels, ours.labels)


@pytest.mark.timeout(30)
def test_a_broken_image_is_named(image_folder, tmp_path):
    broken = image_folder / "class1" / "5.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    shared_memory = set(Path("/dev/shm").iterdir())
    with pytest.raises(ChildProcessError, match=f"^FFCV's writer cannot continue: {broken}: .*Truncated"):
        write(image_folder, tmp_path / "out.beton", max_side=None, num_workers=2)
    assert not multiprocessing.active_children()
    assert set(Path("/dev/shm").iterdir()) <= shared_memory


@pytest.mark.timeout(30)
def test_a_killed_worker_is_noticed(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.ffcv_writer.default_loader", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(ChildProcessError, match="a worker ended with status 9"):
        write(image_folder, tmp_path / "out.beton", max_side=None, num_workers=1)
    assert signal.getsignal(signal.SIGCHLD) is before
