"""Checkpoints: whole or not at all, and nothing in them is executed."""

import os
import pickle
import resource

import pytest
import torch

from fastvit_train import checkpoint


def test_round_trip(tmp_path):
    state = {"model": {"w": torch.arange(5.0)}, "progress": {"step": 3, "top1": None}, "names": ["a", "b"]}
    checkpoint.save(tmp_path / "c.pt", state)
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert loaded["progress"] == state["progress"]
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"model": {"w": torch.zeros(1000)}})
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.UnusableCheckpointError, match="it cannot be read: "):
            checkpoint.load(path)
    torch.save({"format_version": 99}, path)
    with pytest.raises(ValueError, match="it is not a checkpoint of this version"):
        checkpoint.load(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    """torch.load takes tensors as they come."""
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"model": {"w": torch.ones(1000)}})
    whole = path.read_bytes()
    start = whole.index(torch.ones(2).numpy().tobytes())
    path.write_bytes(whole[:start] + b"\x01" + whole[start + 1 :])
    with pytest.raises(checkpoint.UnusableCheckpointError, match="it is damaged: the checksum of .*data/0 is wrong"):
        checkpoint.load(path)


def test_the_file_before_gets_another_name(tmp_path):
    path, before = tmp_path / "c.pt", tmp_path / "c-1.pt"
    for step in (1, 2):
        checkpoint.save(path, {"step": step}, keep_previous_as=before)
    assert (checkpoint.load(path)["step"], checkpoint.load(before)["step"]) == (2, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_found_anywhere(bad):
    state = {"a": [{"b": torch.ones(3, 3)}], "step": torch.tensor(3), "empty": {}, "lr": 1e-3}
    assert checkpoint.is_finite(state)
    state["a"][0]["b"][2, 1] = bad
    assert not checkpoint.is_finite(state)


class _Harmful:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2))])
def test_a_harmful_checkpoint_is_not_executed(tmp_path, write):
    write({"format_version": checkpoint.FORMAT_VERSION, "model": _Harmful(tmp_path / "harm")}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="it cannot be read"):
        checkpoint.load(tmp_path / "c.pt")
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"c\.pt cannot be written: .*; is the disk full\?"):
            checkpoint.save(path, {"w": torch.zeros(1_000_000)}, keep_previous_as=tmp_path / "c-1.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
