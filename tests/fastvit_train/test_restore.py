"""A model comes back from its checkpoint as it was evaluated."""

import argparse
from dataclasses import replace

import pytest
import torch

from fastvit_train import checkpoint
from fastvit_train.restore import find_checkpoint, restore
from fastvit_train.train import train
from runs import same


def test_the_weights_are_those_that_the_run_evaluated(config):
    train(replace(config, ema_half_life_epochs=1))
    state = checkpoint.load(config.out / "checkpoint.pt")
    assert not same(state["ema"], state["model"])
    restored = restore(config.out / "checkpoint.pt")
    assert same(restored.model.state_dict(), state["ema"])
    assert (restored.weights, restored.num_classes, restored.class_names) == ("moving average", 4, None)
    assert not restored.model.training


def test_a_folder_has_its_best_weights(trained, tmp_path):
    assert find_checkpoint(trained.config.out) == trained.config.out / "best.pt"
    (tmp_path / "checkpoint.pt").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint.pt"


@pytest.mark.parametrize(("name", "message"), [("nothing.pt", "no such file"), ("", "has neither best.pt nor")])
def test_no_checkpoint_is_one_message(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        restore(tmp_path / name)


def test_a_damaged_checkpoint_is_named(trained, tmp_path):
    whole = (trained.config.out / "best.pt").read_bytes()
    (tmp_path / "best.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"best\.pt"):
        restore(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "cannot be read: it is a Git LFS pointer"),
        (b"<!DOCTYPE html>", r"cannot be read: it is a web page \(HTML\)"),
        (b"", "cannot be read: it is empty"),
        ({"state_dict": {"w": torch.ones(1)}}, "not a checkpoint .*weights of other programs go to --init-from"),
        ({"format_version": checkpoint.FORMAT_VERSION}, "damaged: config is no dict"),
        (
            {"format_version": checkpoint.FORMAT_VERSION, "args": argparse.Namespace(lr=1)},
            r"cannot be read: it holds an object of 'argparse\.Namespace', which is no plain data",
        ),
    ],
)
def test_what_is_no_checkpoint_is_named_in_a_line(tmp_path, content, message):
    path = tmp_path / "best.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"best\.pt: it .*{message}.*; name another checkpoint") as error_info:
        restore(path)
    assert str(error_info.value).isprintable()


def test_a_config_of_another_version_is_named_with_its_checkpoint(trained, tmp_path):
    state = checkpoint.load(trained.config.out / "best.pt")
    state["config"]["momentun"] = 1
    checkpoint.save(tmp_path / "best.pt", state)
    with pytest.raises(ValueError, match=r"the config in .*best\.pt cannot be used: unknown option momentun"):
        restore(tmp_path)


def test_position_embeddings_follow_the_resolution(trained):
    restored = restore(trained.config.out, resolution=64)
    assert restored.model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
