"""Where a run stands still, it says so; nothing remains of the watchdog afterwards."""

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvit_train.train import train
from fastvit_train.watchdog import Watchdog, WatchedLoader
from runs import save_config


class Batches:
    """A loader of four batches that are numbers."""

    skipped = ()

    def set_epoch(self, epoch, *, resolution=None, skip_batches=0):
        self.skip = skip_batches

    def __len__(self):
        return 4

    def __iter__(self):
        yield from range(self.skip, 4)

    def close(self):
        self.skip = None


def stages(watchdog, monkeypatch):
    """What the watchdog is told, as it comes."""
    told = []
    monkeypatch.setattr(watchdog, "enter", lambda text, *, waits_for_data=False: told.append((text, waits_for_data)))
    return told


def test_a_watched_loader_says_which_batch_it_waits_for(monkeypatch, tmp_path):
    watchdog = Watchdog()
    told = stages(watchdog, monkeypatch)
    inner = Batches()
    loader = WatchedLoader(inner, watchdog, tmp_path / "train.beton", use="training")
    loader.set_epoch(3, skip_batches=2)
    assert list(loader) == [2, 3]
    what = f"of 4, epoch 3, of {tmp_path}/train.beton"
    assert told == [
        (f"waiting for the loader's batch 3 {what}", True),
        (f"training with batch 3 {what}", False),
        (f"waiting for the loader's batch 4 {what}", True),
        (f"training with batch 4 {what}", False),
        (f"waiting for the loader's batch 5 {what}", True),
        (f"training after batch 4 {what}", False),
    ]
    assert (len(loader), loader.skipped) == (4, ())
    loader.close()
    assert inner.skip is None


def test_a_stage_that_takes_long_is_reported_once_and_goes_on(capfd):
    watchdog = Watchdog()
    with watchdog.watch(timeout_seconds=0.1, where=lambda: "step 7, runs/x"), watchdog.stage("writing a checkpoint"):
        time.sleep(0.6)
    said = capfd.readouterr().err
    assert said.count("standing still for 0 s: writing a checkpoint (step 7, runs/x)") == 1
    assert "test_a_stage_that_takes_long_is_reported_once" in said, "the stack of the main thread"
    assert "threads: " in said
    assert "the run goes on" in said


class Reading(Batches):
    """One that says what it reads."""

    def at_work(self):
        return [("photos/a/0.jpg", 0.0), ("photos/b/7.jpg", 41.6)]


def test_the_report_names_what_is_read(capfd, tmp_path):
    watchdog = Watchdog()
    for loader in (Batches(), Reading()):
        WatchedLoader(loader, watchdog, tmp_path / "train.beton", use="training")
    with watchdog.watch(timeout_seconds=0.1, where=str):
        time.sleep(0.4)
    said = capfd.readouterr().err
    assert "being read for 42 s: photos/b/7.jpg\nbeing read for 0 s: photos/a/0.jpg\n" in said


def test_stages_that_change_are_not_reported(capfd):
    watchdog = Watchdog()
    with watchdog.watch(timeout_seconds=0.4, where=str):
        for number in range(20):
            watchdog.enter(f"stage {number}", waits_for_data=True)
            time.sleep(0.05)
    assert capfd.readouterr().err == ""


def test_no_thread_stays(config):
    before = threading.active_count()
    train(replace(config, max_steps=1))
    assert threading.active_count() == before


def test_every_wait_of_a_run_is_watched(config, monkeypatch):
    told = []
    enter = Watchdog.enter
    monkeypatch.setattr(
        Watchdog, "enter", lambda self, text, **options: (told.append(text), enter(self, text, **options))
    )
    train(replace(config, max_steps=1))
    for begin in ("waiting for the loader's batch 1 of 4", "training with batch 1", "evaluation with batch 2 of 2"):
        assert any(text.startswith(begin) for text in told), begin


HANGING = """
import os, sys
from fastvit_train import cli
from loaders.resident_loader import ResidentLoader

def hang(self, whole=ResidentLoader.__iter__):
    for number, batch in enumerate(whole(self)):
        if number == {batch} and (len(self) == {length}):
            os.read(os.open({fifo!r}, os.O_RDWR), 1)
        yield batch

ResidentLoader.__iter__ = hang
sys.exit(cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("length", "batch", "where"), [(4, 2, "3 of 4, epoch 0"), (2, 1, "2 of 2, epoch 0")])
def test_a_loader_that_hangs_ends_the_run(config, tmp_path, length, batch, where):
    """In training (four batches an epoch) and in evaluation (two)."""
    os.mkfifo(tmp_path / "fifo")
    config = replace(config, data=replace(config.data, timeout_seconds=2))
    script = HANGING.format(batch=batch, length=length, fifo=str(tmp_path / "fifo"))
    command = [sys.executable, "-c", script, "--config", save_config(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    path, step = (config.data.train, 2) if length == 4 else (config.data.val, 4)
    expected = f"standing still for 2 s: waiting for the loader's batch {where}, of {path} (step {step}, "
    assert expected in done.stderr
    assert str(config.out) in done.stderr
    assert "in hang" in done.stderr, "the stack shows where"
    assert "--data.timeout-seconds is the limit" in done.stderr


@pytest.fixture
def dead_disk(tmp_path):
    """The environment of processes for which a `read` of 4.jpg never comes back."""
    source, library = Path(__file__).parents[1] / "native" / "blocked_read.c", tmp_path / "blocked_read.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    return os.environ | {"LD_PRELOAD": str(library), "BLOCKED_READ": "b/4.jpg"}


@pytest.mark.slow
def test_a_read_that_times_out_is_named(config, tmp_path, dead_disk):
    for number in range(64):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(path)
    (tmp_path / "photos" / "a" / "4.jpg").rename(tmp_path / "photos" / "b" / "4.jpg")
    data = replace(config.data, train=tmp_path / "photos", val=tmp_path / "photos", backend="native", timeout_seconds=3)
    command = [sys.executable, "-m", "fastvit_train.cli", "--config", save_config(replace(config, data=data))]
    done = subprocess.run(command, env=dead_disk, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert re.search(rf"being read for [1-5] s: {tmp_path}/photos/b/4.jpg\n", done.stderr)
    assert "--data.timeout-seconds is the limit" in done.stderr
