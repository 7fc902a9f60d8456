"""Small runs that tests train, and the weights that they leave."""

import dataclasses
import json
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from fastvit_train import checkpoint
from fastvit_train.config import AugmentConfig, Config, DataConfig, OptimConfig, ScheduleConfig
from fastvit_train.config_json import to_dict
from loaders import BadSample, Batch, ImageLoader

TINY = "timm/test_vit"  # timm's own model for tests: 0.4 M parameters


class Trained(NamedTuple):
    """A run that was trained once for many tests; its folder is to be read, not written."""

    config: Config
    result: dict[str, Any]
    """What `train` returned."""


def tiny_run(out: Path, data: DataConfig) -> Config:
    """A run of less than a second: 12 steps of 32 images."""
    return Config(
        arch=TINY,
        epochs=3,
        batch_size=32,
        out=out,
        log_every_steps=2,
        device="cpu",
        data=data,
        augment=AugmentConfig(flip="random", shift=2),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup_epochs=1),
    )


class LeavingOut:
    """A loader that leaves some samples of another one out, as `on_error skip` does, even all of a batch."""

    def __init__(self, loader: ImageLoader, samples: set[int]) -> None:
        self._loader = loader
        self._samples = torch.tensor(sorted(samples), dtype=torch.int64)
        self.skipped: list[BadSample] = []

    def set_epoch(self, epoch: int, **options: int | None) -> None:
        self._loader.set_epoch(epoch, **options)
        self.skipped = []

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            bad = torch.isin(batch.index, self._samples)
            self.skipped.extend(BadSample(index, f"record {index}", "noise") for index in batch.index[bad].tolist())
            yield Batch(*(part[~bad] for part in batch))

    def close(self) -> None:
        self._loader.close()


def tiny_cifar_vit(*, num_classes: int, resolution: int, any_resolution: bool = False, **options: object) -> nn.Module:
    """In place of the model `vit_small_cifar`, with all of its options: a thirtieth of its parameters."""
    return timm.models.VisionTransformer(
        img_size=resolution,
        patch_size=4,
        embed_dim=96,
        depth=3,
        num_heads=3,
        mlp_ratio=4,
        num_classes=num_classes,
        dynamic_img_size=any_resolution,
        **options,
    )


def on_ranks(work: Callable[[int], Any], world_size: int) -> list[Any]:
    """What `work` returns on each of the ranks of one world, by rank; they are forked, and so start at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_work, args=(work, rank, world_size, port, results)) for rank in range(world_size)]
    try:
        for process in ranks:
            process.start()
        outcomes = dict(results.get(timeout=100) for _ in ranks)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    for rank, (ok, value) in sorted(outcomes.items()):
        assert ok, f"rank {rank}: {value}"
    return [outcomes[rank][1] for rank in range(world_size)]


def _work(
    work: Callable[[int], Any], rank: int, world_size: int, port: int, results: "multiprocessing.Queue[Any]"
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        results.put((rank, (True, work(rank))))
    except BaseException:
        results.put((rank, (False, traceback.format_exc())))


def save_config(config: Config) -> str:
    """Write the config next to its run folder, for `--config`; returns the file's path."""
    path = config.out.with_name("config.json")
    path.write_text(json.dumps(to_dict(config)))
    return str(path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The model in a run's checkpoint."""
    return checkpoint.load(folder / "checkpoint.pt")["model"]


def same(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two models have the same weights, bit by bit."""
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def names_of(config: object, prefix: str = "") -> Iterator[str]:
    """The dotted names of a config's options."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from names_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def replaced(config: Any, options: dict[str, Any]) -> Any:
    """The config with other values of the options, which have dotted names."""
    tree: dict[str, Any] = {}
    for name, value in options.items():
        section, _, rest = name.partition(".")
        tree.setdefault(section, {})[rest] = value
    values = {
        section: inner[""] if "" in inner else replaced(getattr(config, section), inner)
        for section, inner in tree.items()
    }
    return dataclasses.replace(config, **values)
