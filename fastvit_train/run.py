"""A run: what its steps share, how it starts, and how it is saved and resumed."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timm.utils import ModelEmaV3
from torch import nn

from fastvit_train import checkpoint
from fastvit_train.augment import normalize
from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from fastvit_train.data import training_classes
from fastvit_train.device import computes_in_bf16
from fastvit_train.distributed import World
from fastvit_train.ema import build_ema
from fastvit_train.initial_weights import load_initial_weights
from fastvit_train.metrics import Metrics
from fastvit_train.models import build_model
from fastvit_train.models.plain_attention import use_plain_attention
from fastvit_train.models.vit_start import whiten_patches
from fastvit_train.optim import Optimizers, build_optimizer
from fastvit_train.run_folder import BEST, CHECKPOINT, save_config
from fastvit_train.schedule import total_steps
from loaders import ImageLoader
from loaders.errors import FastvitError

__all__ = [
    "Progress",
    "Run",
    "compile_models",
    "compiles_augmentation",
    "initialize_from_data",
    "resolve_compile",
    "resume",
    "save_best",
    "save_checkpoint",
    "start_model",
    "start_run",
]


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; part of its checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches done in this epoch."""
    num_images: int = 0
    train_seconds: float = 0.0
    """Time in training steps and waiting for their data, compilation included; not evaluation."""
    wait_seconds: float = 0.0
    """The part of it spent waiting for data."""
    eval_seconds: float = 0.0
    top1: float | None = None
    """Of the last evaluation."""
    top1_averaged: float | None = None
    best_top1: float | None = None
    """The highest of all evaluations so far."""
    best_step: int | None = None
    """Where it was reached."""


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that the steps of a run share."""

    config: Config
    world: World
    folder: Path
    model: nn.Module
    parallel_model: nn.Module
    """`model` with gradients averaged over the ranks; the same weights."""
    ema: ModelEmaV3 | None
    """The moving average of its weights, where the config asks for one."""
    optimizer: Optimizers
    metrics: Metrics
    num_classes: int
    class_names: tuple[str, ...] | None
    """By label, where the training set has names for them."""
    steps_per_epoch: int
    dtype: torch.dtype
    compile_augment: bool
    autocast: Callable[[], AbstractContextManager[object]]
    progress: Progress = field(default_factory=Progress)

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose accuracy counts: that of the averaged weights where there are any."""
        averaged: nn.Module | None = None if self.ema is None else self.ema.module
        return self.model if averaged is None else averaged

    @property
    def evaluated_weights(self) -> Literal["ema", "model"]:
        """Which weights those are."""
        return "model" if self.ema is None else "ema"

    @property
    def schedule_steps(self) -> int:
        """Steps that the learning-rate schedule spans."""
        return total_steps(self.config.epochs, self.steps_per_epoch)

    @property
    def last_step(self) -> int:
        """Steps after which the run ends."""
        return min(self.schedule_steps, self.config.max_steps or self.schedule_steps)


def start_run(config: Config, world: World, folder: Path, loader: ImageLoader, num_classes: int) -> Run:
    """Make the model, optimizer and folder of a run that is at its first step."""
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    steps_per_epoch = len(loader)
    metrics = Metrics(folder, is_main=world.is_main, num_steps=total_steps(config.epochs, steps_per_epoch))
    model = start_model(config, world, loader, num_classes, metrics)
    optimizer = build_optimizer(model, config.optim)
    torch.manual_seed(config.seed + world.rank)  # the same weights on every rank, but not the same dropped paths
    half_life_steps = config.ema_half_life_epochs * steps_per_epoch
    ema = build_ema(model, half_life_steps=half_life_steps) if half_life_steps else None
    compile_models(config, world.device, model, *([ema.module] if ema is not None else []))
    dtype = torch.bfloat16 if computes_in_bf16(config, world.device) else torch.float32
    if world.is_main:
        save_config(folder, config)
    return Run(
        config=config,
        world=world,
        folder=folder,
        model=model,
        parallel_model=world.wrap(model),
        ema=ema,
        optimizer=optimizer,
        metrics=metrics,
        num_classes=num_classes,
        class_names=training_classes(config.data.train, num_classes),
        steps_per_epoch=steps_per_epoch,
        dtype=dtype,
        compile_augment=compiles_augmentation(config, world.device),
        autocast=partial(torch.autocast, world.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
    )


def start_model(config: Config, world: World, loader: ImageLoader, num_classes: int, metrics: Metrics) -> nn.Module:
    """The model on its device, with the weights that it starts from."""
    model = build_model(
        config.arch,
        num_classes=num_classes,
        resolution=config.data.resolution,
        config=config.model,
        phases=config.phases,
    )
    model = model.to(world.device).to(memory_format=torch.channels_last)
    if world.device.type == "cpu":
        use_plain_attention(model)
    initialize_from_data(model, config, loader)
    if config.init_from is not None:
        metrics.say(load_initial_weights(model, config.init_from))
    return model


def initialize_from_data(model: nn.Module, config: Config, loader: ImageLoader) -> None:
    """Let a model that wants to see images before training (such as one that whitens them) see the first batch."""
    initialize = (
        partial(whiten_patches, model) if config.model.whiten_patches else getattr(model, "init_from_data", None)
    )
    if initialize is not None:
        loader.set_epoch(0)
        images = next(iter(loader)).images
        initialize(normalize(images, config.augment, torch.float32))


def compile_models(config: Config, device: torch.device, *models: nn.Module) -> None:
    """Have torch.compile make each model's code when it is first called, if the config asks for it."""
    mode = resolve_compile(config, device)
    if mode is not None:
        for model in models:
            # The few resolutions of the phases get their own code; else torch would make the sizes variables.
            model.compile(mode=mode, dynamic=False if config.phases else None)


def resolve_compile(config: Config, device: torch.device) -> str | None:
    """The torch.compile mode, or None."""
    if config.compile == "auto":
        return "default" if device.type == "cuda" else None
    return None if config.compile == "off" else config.compile


def compiles_augmentation(config: Config, device: torch.device) -> bool:
    """Whether the augmentation is compiled: auto does so on cuda, and on the CPU where it gains something.

    On the CPU torch needs a C++ compiler for that, which a machine that a wheel was installed on need not have.
    """
    if config.compile == "auto":
        return device.type == "cuda" or (not config.augment.is_plain and _has_cpp_compiler())
    return config.compile != "off"


def _has_cpp_compiler() -> bool:
    """Whether the compiler that torch.compile calls for the CPU is there."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def resume(run: Run) -> None:
    """Continue from the folder's checkpoint where the config asks for it and there is one."""
    path = run.folder / CHECKPOINT
    if run.config.resume == "never" or not path.exists():
        run.metrics.start_at(0)
        return
    state = checkpoint.load(path)
    config = run.config
    for name, theirs, ours in (
        ("arch", state["config"]["arch"], config.arch),
        ("optimizer", state["config"]["optim"]["name"], config.optim.name),
        ("evaluated weights", "model" if state["ema"] is None else "ema", run.evaluated_weights),
        ("number of classes", state["num_classes"], run.num_classes),
        ("global batch size", state["global_batch_size"], config.batch_size),
    ):
        if theirs != ours:
            raise FastvitError(
                f"{path} is of {name} {theirs}, but this run has {ours}; change one, or name another --out"
            )
    try:
        run.model.load_state_dict(state["model"])
        if run.ema is not None:
            run.ema.module.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise FastvitError(f"{path} does not fit the model or optimizer of this run: {error}") from error
    run.progress = Progress(**state["progress"])
    checkpoint.restore_random_state(state["random_states"], run.world)
    run.metrics.start_at(run.progress.step)
    run.metrics.say(f"continuing from {path} at step {run.progress.step}")


def save_checkpoint(run: Run) -> None:
    """Write everything that resuming needs."""
    random_states = checkpoint.random_states(run.world)
    if run.world.is_main:
        state = {
            **_identity(run),
            "model": run.model.state_dict(),
            "ema": None if run.ema is None else run.ema.module.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "random_states": random_states,
        }
        checkpoint.save(run.folder / CHECKPOINT, state)


def save_best(run: Run) -> None:
    """Write the evaluated weights, which are the best so far: to start other runs from, not to resume."""
    if run.world.is_main:
        checkpoint.save(run.folder / BEST, {**_identity(run), "model": run.evaluated_model.state_dict()})


def _identity(run: Run) -> dict[str, Any]:
    return {
        "config": to_dict(run.config),
        "num_classes": run.num_classes,
        "class_names": None if run.class_names is None else list(run.class_names),
        "global_batch_size": run.config.batch_size,
        "progress": asdict(run.progress),
    }
