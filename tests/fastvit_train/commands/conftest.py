"""A run over folders of photos, whose classes have names, and the command line in this process."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from fastvit_train import checkpoint
from fastvit_train.cli import main
from fastvit_train.config import AugmentConfig, Config, DataConfig, OptimConfig, ScheduleConfig
from fastvit_train.config_json import to_dict
from fastvit_train.models import build_model
from fastvit_train.train import train
from runs import TINY

CLASSES = ("cat", "dog", "elk", "fox", "owl", "rat")
RESOLUTION = 32


def write_photos(folder: Path, classes: Sequence[str], num_each: int, *, seed: int) -> None:
    """Images of many sizes whose colour tells their class, by folder; some PNG among the JPEGs."""
    rng = np.random.default_rng(seed)
    colours = dict(zip(CLASSES, np.random.default_rng(1).integers(256, size=(len(CLASSES), 1, 1, 3)), strict=True))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(num_each):
            noise = rng.integers(-90, 90, size=(*rng.integers(40, 60, size=2), 3))
            pixels = np.clip(colours[name] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{'jpg' if number % 4 else 'png'}")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """`train` and `val`, to be read, not written."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder / "train", CLASSES, 8, seed=0)
    write_photos(folder / "val", CLASSES, 5, seed=1)
    return folder


def photo_config(photos: Path) -> Config:
    """A run of a second over the photos: not long enough to be right about all of them."""
    return Config(
        arch=TINY,
        epochs=3,
        batch_size=16,
        device="cpu",
        precision="fp32",
        data=DataConfig(train=photos / "train", val=photos / "val", resolution=RESOLUTION),
        augment=AugmentConfig(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
        optim=OptimConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup_epochs=1),
    )


@pytest.fixture(scope="session")
def photo_run(photos, tmp_path_factory) -> Path:
    """The folder of a finished run over the photos; to be read, not written."""
    out = tmp_path_factory.mktemp("photo_run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastvit_train.report.draw_run", lambda folder: None)
        train(replace(photo_config(photos), out=out))
    return out


class Said(NamedTuple):
    """What the command wrote."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., Said]:
    """Runs `fastvit-train` in this process."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fastvit-train", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as stopped:
            code = stopped.code
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def untrained(tmp_path) -> Callable[..., Path]:
    """Writes the checkpoint of a model with random weights."""

    def write(config: Config, *, num_classes: int = 7, class_names: Sequence[str] | None = None) -> Path:
        model = build_model(
            config.arch,
            num_classes=num_classes,
            resolution=config.data.resolution,
            config=config.model,
            phases=config.phases,
        )
        state = {
            "config": to_dict(config),
            "num_classes": num_classes,
            "class_names": None if class_names is None else list(class_names),
            "progress": {"step": 12, "top1": 0.5},
            "model": model.state_dict(),
        }
        checkpoint.save(tmp_path / "best.pt", state)
        return tmp_path / "best.pt"

    return write
