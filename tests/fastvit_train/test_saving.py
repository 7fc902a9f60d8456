"""A disk that is full at a checkpoint: training goes on, the old checkpoint stays, and nobody can miss it."""

import json
import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import fastvit_train.train
from fastvit_train import checkpoint
from fastvit_train.metrics import Metrics, read_metrics
from fastvit_train.train import train
from runs import same, weights


def fail_at(monkeypatch, *calls):
    """Let the writing of checkpoints fail at these calls, counted from 1."""
    numbers = iter(range(1, 10**6))
    save = checkpoint.save

    def full(path, state):
        if next(numbers) in calls:
            raise OSError(f"the checkpoint {path} cannot be written: [Errno 28] No space left on device")
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", full)


def test_training_goes_on(trained, config, monkeypatch, capsys):
    fail_at(monkeypatch, 2, 3)  # 1: the best weights after epoch 1; 2: the checkpoint there; 3: the best of epoch 2
    result = train(config)
    assert result["steps"] == 12
    assert same(weights(config.out), weights(trained.config.out))
    said = capsys.readouterr().out
    assert said.count("No space left on device; training continues, and the file before it stays") == 2
    assert "2 times a checkpoint could not be written" in said


def test_a_last_checkpoint_that_is_not_written_is_an_error(trained, config, monkeypatch):
    train(replace(config, max_steps=4))
    with monkeypatch.context() as patch:
        fail_at(patch, *range(1, 100))
        with pytest.raises(
            ValueError, match=r"the run is done, but its last checkpoint is not written .*--resume auto"
        ):
            train(replace(config, resume="auto"))
    assert checkpoint.load(config.out / "checkpoint.pt")["progress"]["step"] == 4
    assert json.loads((config.out / "result.json").read_text())["top1"] == trained.result["top1"]
    train(replace(config, resume="auto"))
    assert same(weights(config.out), weights(trained.config.out))


@pytest.mark.parametrize("room", [0, 5])
def test_a_line_of_metrics_is_written_whole_or_not_at_all(tmp_path, capsys, room):
    """Where the file may grow by five bytes, the system writes five and reports no error."""
    path = tmp_path / "metrics.jsonl"
    written = Metrics(tmp_path, is_main=True, num_steps=10)
    written.log("train", step=1, epoch=0, loss=1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        written.log("train", step=2, epoch=0, loss=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written.log("train", step=3, epoch=0, loss=1.0)
    assert [line["step"] for line in read_metrics(path)] == [1, 3]
    assert "metrics.jsonl cannot be written: " in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 16 MB, three times a checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_for_some_epochs(trained, config, small_disk, monkeypatch, capsys):
    """Another program fills the disk in the second epoch and makes room in the fourth."""
    ballast = (small_disk / "ballast").open("wb", buffering=0)
    calls = iter(range(1, 10**6))
    step = fastvit_train.train.train_step

    def crowded(*args):
        match next(calls):
            case 6:
                with suppress(OSError):
                    while ballast.write(bytes(2**12)):
                        pass
            case 11:
                ballast.truncate(0)
        step(*args)

    monkeypatch.setattr("fastvit_train.train.train_step", crowded)
    out = small_disk / "run"
    with ballast:
        train(replace(config, out=out))
    assert same(weights(out), weights(trained.config.out))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("training continues, and the file before it stays") == 1
    assert "is the disk full?" in said
    assert sorted(path.name for path in out.iterdir() if path.name.endswith("tmp")) == []
    steps = [line["step"] for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]
    assert {2, 4, 12} <= set(steps)
