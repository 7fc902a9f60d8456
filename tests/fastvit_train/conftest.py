"""A run that tests change."""

import pytest

from fastvit_train.config import AugmentConfig, Config, DataConfig, OptimConfig, ScheduleConfig

TINY = "timm/test_vit"  # timm's own model for tests: 0.4 M parameters


@pytest.fixture
def config(tmp_path, make_set) -> Config:
    """A run of a few seconds: 12 steps of 32 images."""
    return Config(
        arch=TINY,
        epochs=3,
        batch_size=32,
        out=tmp_path / "run",
        log_every_steps=2,
        device="cpu",
        data=DataConfig(
            train=make_set("train.beton", 140, num_classes=4).path,
            val=make_set("val.beton", 50, num_classes=4, seed=1).path,
            backend="resident",
            crop="whole",
            resolution=32,
        ),
        augment=AugmentConfig(flip="random", shift=2),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup_epochs=1),
    )
