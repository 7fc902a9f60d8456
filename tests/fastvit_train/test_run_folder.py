"""Where a run's files go."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastvit_train.run_folder import choose_folder
from fastvit_train.train import train


def test_a_finished_run_is_not_overwritten(trained):
    with pytest.raises(ValueError, match="holds a run already; continue it with --resume auto, or name another --out"):
        choose_folder(trained.config)


def test_without_out_each_run_gets_its_own_folder(config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = replace(config, out=None, max_steps=1)
    for _ in range(2):
        train(config)
    train(replace(config, max_steps=2, resume="auto"))
    finished = {path.name: json.loads((path / "result.json").read_text())["steps"] for path in Path("runs").iterdir()}
    assert finished == {"timm-test_vit": 1, "timm-test_vit-2": 2}
