"""A model comes back from its checkpoint as it was evaluated."""

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


def test_position_embeddings_follow_the_resolution(trained):
    restored = restore(trained.config.out, resolution=64)
    assert restored.model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
