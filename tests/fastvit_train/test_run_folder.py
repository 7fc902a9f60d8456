"""Where a run's files go, and that no other run gets there."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fastvit_train.run_folder import claim_folder
from fastvit_train.train import train

# Holds a folder as a run does, with a worker that outlives it; without the seconds that importing a run takes.
HOLDER = """
import os, sys, time
from pathlib import Path
from fastvit_train.config import Config
from fastvit_train.run_folder import claim_folder
with claim_folder(Config(out=Path(sys.argv[1]))):
    if os.fork():
        print("ready", flush=True)
    time.sleep(60)
"""


def test_a_finished_run_is_not_overwritten(trained):
    with (
        pytest.raises(ValueError, match="holds a run already; continue it with --resume auto, or name another --out"),
        claim_folder(trained.config),
    ):
        pass


def test_without_out_each_run_gets_its_own_folder(config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = replace(config, out=None, max_steps=1)
    for _ in range(2):
        train(config)
    train(replace(config, max_steps=2, resume="auto"))
    finished = {path.name: json.loads((path / "result.json").read_text())["steps"] for path in Path("runs").iterdir()}
    assert finished == {"timm-test_vit": 1, "timm-test_vit-2": 2}


def test_runs_that_start_together_get_folders_of_their_own(config, monkeypatch, tmp_path):
    """Before any of them has written anything."""
    monkeypatch.chdir(tmp_path)
    config = replace(config, out=None)
    with ExitStack() as runs:
        folders = [runs.enter_context(claim_folder(config)).name for _ in range(3)]
    assert folders == ["timm-test_vit", "timm-test_vit-2", "timm-test_vit-3"]


def test_a_folder_that_nothing_came_into_goes(config):
    missing = replace(config, data=replace(config.data, train=Path("there/is/none.beton")))
    with pytest.raises(ValueError, match="none.beton"):
        train(missing)
    assert not config.out.exists()
    config.out.mkdir()
    with pytest.raises(ValueError, match="none.beton"):
        train(missing)
    assert config.out.exists(), "it was not ours"


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_a_folder_belongs_to_one_process_as_long_as_that_lives(config, resume):
    config = replace(config, resume=resume)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(config.out)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout.readline() == "ready\n"
        owner = f"process {holder.pid} on {socket.gethostname()}"
        with (
            pytest.raises(ValueError, match=f"run is in use by {owner}; wait until it is done, or name another --out"),
            claim_folder(config),
        ):
            pass
        holder.kill()
        holder.wait()
        with claim_folder(config) as folder:  # at once, though its worker is still there
            assert folder == config.out
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_what_killed_saves_left_goes(trained, config):
    config.out.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".{name}.{dead.pid}.tmp" for name in ("checkpoint.pt", "best.pt", "metrics.jsonl")]
    stays = [f".checkpoint.pt.{os.getppid()}.tmp", f".mine.txt.{dead.pid}.tmp", "checkpoint.pt.tmp"]
    for name in (*left, *stays):
        (config.out / name).touch()
    with claim_folder(config):
        assert {path.name for path in config.out.iterdir()} == {*stays, ".lock"}


@pytest.mark.parametrize("out", ["file", "file/run", "link", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(config, tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    config = replace(config, out=tmp_path / out)
    with pytest.raises(
        ValueError, match=f"--out .*/{out} cannot be used: .*; name another folder with --out"
    ) as error_info:
        train(config)
    assert "Errno" not in str(error_info.value)


@pytest.mark.parametrize("folder", ["train", "train/cat/run", "linked", "val"])
def test_the_folders_of_the_images_hold_no_run(config, tmp_path, folder):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "train")
    before = sorted(tmp_path.rglob("*"))
    data = replace(config.data, train=tmp_path / "train", val=tmp_path / "val")
    with pytest.raises(ValueError, match=r"would lie in the data, --data\.(train|val) .*; name one outside with --out"):
        train(replace(config, data=data, out=tmp_path / folder))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_out_does_not_go_into_the_images_either(config, monkeypatch, tmp_path):
    (tmp_path / "cat").mkdir()
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ValueError, match="the run folder runs would lie in the data"),
        claim_folder(replace(config, out=None, data=replace(config.data, train=Path()))),
    ):
        pass


def test_restarts_by_torchrun_need_resume(config, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with (
        pytest.raises(ValueError, match=r"--max-restarts 2 starts the run again .*; add --resume auto"),
        claim_folder(config),
    ):
        pass
    assert not config.out.exists()
    with claim_folder(replace(config, resume="auto")) as folder:
        assert folder == config.out
