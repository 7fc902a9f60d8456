"""A run: what its steps share, how it starts, and how it is saved and resumed."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastvit_train import checkpoint
from fastvit_train.accumulation import resolve_accumulate
from fastvit_train.augment import normalize
from fastvit_train.batch_norm import average_statistics, synchronize_batch_norm
from fastvit_train.compilation import compile_models, compiles_augmentation
from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from fastvit_train.data import SetDescriptions, describe_sets, training_classes
from fastvit_train.device import choose_fast_kernels, dtype_of
from fastvit_train.distributed import World
from fastvit_train.ema import MovingAverage
from fastvit_train.float8 import use_float8
from fastvit_train.flops import flops_per_image, peak_flops_per_second
from fastvit_train.initial_weights import load_initial_weights
from fastvit_train.loss_scaler import LossScaler
from fastvit_train.metrics import Metrics
from fastvit_train.models import build_model
from fastvit_train.models.device_kernels import use_fast_modules
from fastvit_train.models.vit_start import whiten_patches
from fastvit_train.optim import Optimizers, build_optimizer
from fastvit_train.run_folder import BEST, CHECKPOINT, older_checkpoint, remove_old_checkpoints
from fastvit_train.schedule import Phase, last_step, phases_of, total_steps
from fastvit_train.sharding import check_sharding, gathered, is_sharded, shard
from fastvit_train.signals import StopSignal
from fastvit_train.step_graph import StepGraph, build_step_graph
from fastvit_train.teacher import Teacher, untrained_teacher
from fastvit_train.watchdog import Watchdog
from loaders import ImageLoader
from loaders.errors import FastvitError

__all__ = [
    "Progress",
    "Run",
    "average_batch_norm",
    "build_placed_model",
    "checkpoint_is_due",
    "diverged",
    "initialize_from_data",
    "save_best",
    "save_checkpoint",
    "set_initial_weights",
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
    steady_seconds: float = 0.0
    """The part of it without the first steps of each shape, which compile."""
    steady_images: int = 0
    """Images of that part."""
    steady_flops: float = 0.0
    """Operations of the model for these images."""
    wait_seconds: float = 0.0
    """Time in that part in which the device had no data."""
    eval_seconds: float = 0.0
    evaluated_step: int = 0
    """Where the last evaluation was."""
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
    """`model` with gradients averaged over the ranks; the same weights. Itself where it is sharded."""
    teacher: Teacher | None
    """What its model learns from besides the labels, where the config asks for one."""
    ema: MovingAverage | None
    """The moving average of its weights, where the config asks for one."""
    optimizer: Optimizers
    scaler: LossScaler
    metrics: Metrics
    num_classes: int
    class_names: tuple[str, ...] | None
    """By label, where the training set has names for them."""
    steps_per_epoch: int
    data_sets: dict[str, str]
    """What tells its data sets from others, on the main rank; see `describe_sets`."""
    dtype: torch.dtype
    num_parts: int
    """That each rank computes its share of a batch in."""
    compile_augment: bool
    autocast: Callable[[], AbstractContextManager[object]]
    generator: torch.Generator
    """What the augmentation draws from; it has a seed for each step."""
    epoch: Tensor
    """The epoch of the step, int64 on the device."""
    step_graph: StepGraph | None
    """What makes its steps from CUDA graphs, where there are any."""
    checkpoint_time: float
    """When a checkpoint was last written, or the run started, on the clock `time.monotonic`."""
    flops_per_image: dict[Phase, float]
    """Operations of the model for an image of each phase, forward and backward, and of the teacher forward."""
    progress: Progress = field(default_factory=Progress)
    checkpoint_path: Path | None = None
    """The last good checkpoint in the folder."""
    checkpoint_step: int | None = None
    """Its step."""
    watchdog: Watchdog = field(default_factory=Watchdog)
    stop_signal: StopSignal = field(init=False)
    failed_saves: int = 0
    """Checkpoints that could not be written."""
    save_error: str | None = None
    """Why the last one could not; None where it was written."""

    def __post_init__(self) -> None:
        """Ctrl-C need not wait for the end of a step while the run waits for a batch, which may never come."""
        self.stop_signal = StopSignal(lambda: self.watchdog.waits_for_data)

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose accuracy counts: that of the averaged weights where there are any."""
        return self.model if self.ema is None else self.ema.module

    @property
    def evaluated_weights(self) -> Literal["ema", "model"]:
        """Which weights those are."""
        return "model" if self.ema is None else "ema"

    @property
    def identity(self) -> dict[str, str]:
        """What a run cannot change while it is continued, besides its config; see `fastvit_train.resume`."""
        return {
            **{f"{name} images": described for name, described in self.data_sets.items()},
            "classes": str(self.num_classes),
            "steps per epoch": str(self.steps_per_epoch),
            "evaluated weights": self.evaluated_weights,
            **({} if self.teacher is None else {"teacher": self.teacher.description}),
        }

    @property
    def peak_flops_per_second(self) -> float | None:
        """What all devices together could do, where a table says it."""
        if self.world.device.type != "cuda":
            return None
        peak = peak_flops_per_second(torch.cuda.get_device_name(self.world.device), self.dtype)
        return None if peak is None else peak * self.world.world_size

    @property
    def schedule_steps(self) -> int:
        """Steps that the learning-rate schedule spans."""
        return total_steps(self.config.epochs, self.steps_per_epoch)

    @property
    def last_step(self) -> int:
        """Steps after which the run ends."""
        return last_step(self.config, steps_per_epoch=self.steps_per_epoch)

    def where(self) -> str:
        """How far the run is, for messages."""
        return f"step {self.progress.step}, epoch {self.progress.epoch}, rank {self.world.rank}, {self.folder}"


def start_run(
    config: Config,
    world: World,
    folder: Path,
    loader: ImageLoader,
    num_classes: int,
    *,
    teacher: Teacher | None = None,
    is_resumed: bool = False,
    memory_format: torch.memory_format = torch.channels_last,
) -> Run:
    """Make the model and optimizer of a run that is at its first step; nothing is written.

    Args:
        config: The run.
        world: The ranks that share it.
        folder: Where its files go.
        loader: Of the training set.
        num_classes: What the model tells apart.
        teacher: The trained teacher. Without it, a run that wants one has one with random weights: for benchmarks.
        is_resumed: Leave the weights for a checkpoint to replace.
        memory_format: Of the weights of convolutions; benchmarks compare it with others.
    """
    choose_fast_kernels(world.device)
    teacher = teacher or untrained_teacher(config, folder, num_classes)
    torch.manual_seed(config.seed)
    steps_per_epoch = len(loader)
    metrics = Metrics(folder, is_main=world.is_main, num_steps=last_step(config, steps_per_epoch=steps_per_epoch))
    dtype = dtype_of(config, world.device)
    model = build_placed_model(config, world, num_classes, memory_format=memory_format)
    flops = {phase: flops_per_image(model, phase) for phase in phases_of(config)}
    class_names = training_classes(config.data.train, num_classes, classes_file=config.data.classes)
    if teacher is not None:
        teacher.check_classes(num_classes, class_names)
        teacher.place(world.device)
        flops = {phase: own + teacher.flops_per_image(phase.resolution) for phase, own in flops.items()}
    if not is_resumed:
        set_initial_weights(model, config, loader, metrics)
    if config.sync_batch_norm:
        model = synchronize_batch_norm(model, world)
    num_parts = resolve_accumulate(config, model, world, dtype=dtype)
    if config.precision == "fp8":
        use_float8(model, world.device)  # before it is copied: averaged weights are evaluated in float8 too
    half_life_steps = config.ema_half_life_epochs * steps_per_epoch
    ema = MovingAverage(model, half_life_steps=half_life_steps) if half_life_steps else None
    models = [model, *([ema.module] if ema is not None else [])]
    if config.parallel == "fsdp":
        check_sharding(config, model, dtype, world)
        for each in models:
            shard(each, dtype=dtype, world=world)
    optimizer = build_optimizer(model, config.optim)
    sets = describe_sets(config) if world.is_main else SetDescriptions({}, [])
    for note in sets.notes:
        metrics.say(note)
    torch.manual_seed(config.seed + world.rank)  # the same weights on every rank, but not the same dropped paths
    compile_models(config, world.device, *models, *([teacher.model] if teacher is not None else []))
    generator = torch.Generator(world.device)
    return Run(
        config=config,
        world=world,
        folder=folder,
        model=model,
        parallel_model=model if is_sharded(model) else world.wrap(model),
        teacher=teacher,
        ema=ema,
        optimizer=optimizer,
        scaler=LossScaler(model, optimizer, world.device, enabled=dtype == torch.float16),
        metrics=metrics,
        num_classes=num_classes,
        class_names=class_names,
        steps_per_epoch=steps_per_epoch,
        data_sets=sets.identity,
        dtype=dtype,
        num_parts=num_parts,
        compile_augment=compiles_augmentation(config, world.device),
        generator=generator,
        epoch=torch.zeros((), dtype=torch.int64, device=world.device),
        step_graph=build_step_graph(config, model, generator, world=world, dtype=dtype),
        checkpoint_time=time.monotonic(),
        autocast=partial(torch.autocast, world.device.type, dtype=dtype, enabled=dtype != torch.float32),
        flops_per_image=flops,
    )


def build_placed_model(
    config: Config, world: World, num_classes: int, *, memory_format: torch.memory_format = torch.channels_last
) -> nn.Module:
    """The model on its device, with random weights."""
    model = build_model(
        config.arch,
        num_classes=num_classes,
        resolution=config.data.resolution,
        config=config.model,
        phases=config.phases,
    )
    model = model.to(world.device).to(memory_format=memory_format)
    use_fast_modules(model, world.device)
    return model


def set_initial_weights(model: nn.Module, config: Config, loader: ImageLoader, metrics: Metrics) -> None:
    """Give the model the weights that training starts from, where they are not the random ones."""
    initialize_from_data(model, config, loader)
    if config.init_from is not None:
        metrics.say(load_initial_weights(model, config.init_from))


def initialize_from_data(model: nn.Module, config: Config, loader: ImageLoader) -> None:
    """Let a model that wants to see images before training (such as one that whitens them) see the first batch."""
    initialize = (
        partial(whiten_patches, model) if config.model.whiten_patches else getattr(model, "init_from_data", None)
    )
    if initialize is not None:
        loader.set_epoch(0)
        images = next(iter(loader)).images
        initialize(normalize(images, config.augment, torch.float32))


def save_checkpoint(run: Run) -> None:
    """Write everything that resuming needs, and keep as many of the checkpoints before it as the config says.

    Every rank has to call it, after the metrics of the steps so far have been read.

    Raises:
        FastvitError: The weights are no longer finite; the last checkpoint is as it was.
        OSError: On the main rank, when the disk is full: the checkpoints are as they were.
    """
    average_batch_norm(run)
    random_states = checkpoint.random_states(run.world)
    state = {
        **_identity(run),
        "model": gathered(run.model.state_dict()),
        "ema": None if run.ema is None else gathered(run.ema.module.state_dict()),
        "optimizer": gathered(run.optimizer.state_dict()),
        "scaler": run.scaler.state_dict(),
        "random_states": random_states,
    }
    _require_finite(run, state)
    path, step, previous = run.folder / CHECKPOINT, run.progress.step, None
    # A damaged checkpoint.pt is not the last good one, and is replaced.
    if run.checkpoint_path == path and run.checkpoint_step not in (None, step) and run.config.keep_checkpoints > 1:
        previous = older_checkpoint(run.folder, run.checkpoint_step)
    if run.world.is_main:
        checkpoint.save(path, state, keep_previous_as=previous)
    run.checkpoint_path, run.checkpoint_step, run.checkpoint_time = path, step, time.monotonic()
    if run.world.is_main:
        remove_old_checkpoints(run.folder, step=step, keep=run.config.keep_checkpoints)


def save_best(run: Run) -> None:
    """Write the evaluated weights, which are the best so far: to start other runs from, not to resume.

    Every rank has to call it.

    Raises:
        FastvitError: They are not finite.
        OSError: On the main rank, when the disk is full: the best weights are those before.
    """
    state = {**_identity(run), "model": gathered(run.evaluated_model.state_dict())}
    _require_finite(run, state)
    if run.world.is_main:
        checkpoint.save(run.folder / BEST, state)


def average_batch_norm(run: Run) -> None:
    """Have the ranks agree on the statistics of batch normalisation: before they are used, and before they are kept."""
    average_statistics(run.model, run.world)
    if run.ema is not None:
        average_statistics(run.ema.module, run.world)


def checkpoint_is_due(run: Run) -> bool:
    """Whether the config asks for a checkpoint after the step that has just been made; every rank has to call it."""
    config, progress = run.config, run.progress
    if progress.step >= run.last_step:
        return True
    if config.checkpoint_every_steps is not None and progress.step % config.checkpoint_every_steps == 0:
        return True
    ends_epoch = progress.batch == 0
    if ends_epoch and progress.epoch % config.checkpoint_every_epochs == 0:
        return True
    minutes = config.checkpoint_every_minutes
    if minutes is None or not (ends_epoch or progress.step % config.log_every_steps == 0):
        return False
    return run.world.from_main(lambda: time.monotonic() - run.checkpoint_time >= 60 * minutes)


def diverged(run: Run, what: str) -> FastvitError:
    """The error that ends a run whose numbers are no longer finite.

    Args:
        run: The run, its gradients still those of the last step.
        what: What was seen, such as "the loss is nan".
    """
    gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
    norm = float(gathered(torch.nn.utils.get_total_norm(gradients)))
    last = f"the last good checkpoint is {run.checkpoint_path} of step {run.checkpoint_step}: add --resume auto"
    remedy = "there is no checkpoint yet" if run.checkpoint_path is None else last
    return FastvitError(
        f"{what} at step {run.progress.step} (learning rate {run.optimizer.lr:.3g}, gradient norm "
        f"{norm:.3g}); a lower --optim.lr, a longer --schedule.warmup-epochs or --optim.clip-norm 1 may help; {remedy}"
    )


def _require_finite(run: Run, state: dict[str, Any]) -> None:
    if not run.world.from_main(lambda: checkpoint.is_finite(state)):
        raise diverged(run, "the weights are not finite")


def _identity(run: Run) -> dict[str, Any]:
    return {
        "config": to_dict(run.config),
        "identity": run.identity,
        "num_classes": run.num_classes,
        "class_names": None if run.class_names is None else list(run.class_names),
        "progress": asdict(run.progress),
    }
