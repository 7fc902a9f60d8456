"""Training, from a config to a result; `train` tells the story, the functions below it are its steps in order."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from fastvit_train import checkpoint
from fastvit_train.augment import augment, normalize
from fastvit_train.config import Config, to_dict
from fastvit_train.data import build_loaders
from fastvit_train.distributed import World, start_world
from fastvit_train.evaluate import Evaluation, evaluate
from fastvit_train.metrics import Metrics, Totals
from fastvit_train.models import build_model
from fastvit_train.optim import build_optimizer, clip_gradients, set_lr
from fastvit_train.plot import plot_run
from fastvit_train.prefetch import Prefetcher
from fastvit_train.run_folder import CHECKPOINT, RESULT, choose_folder, device_name, provenance, save_config, write_json
from fastvit_train.schedule import lr_factor, total_steps
from loaders import ImageLoader


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
    top1_averaged: float | None = None


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that the steps of a run share."""

    config: Config
    world: World
    folder: Path
    model: nn.Module
    parallel_model: nn.Module
    """`model` with gradients averaged over the ranks; the same weights."""
    optimizer: Optimizer
    metrics: Metrics
    num_classes: int
    steps_per_epoch: int
    dtype: torch.dtype
    autocast: Callable[[], AbstractContextManager[object]]
    progress: Progress = field(default_factory=Progress)

    @property
    def schedule_steps(self) -> int:
        """Steps that the learning-rate schedule spans."""
        return total_steps(self.config.epochs, self.steps_per_epoch)

    @property
    def last_step(self) -> int:
        """Steps after which the run ends."""
        return min(self.schedule_steps, self.config.max_steps or self.schedule_steps)


def train(config: Config) -> dict[str, Any]:
    """Train a classifier and leave checkpoint, metrics, curves and result in its run folder.

    Returns:
        What `result.json` holds.

    Raises:
        ValueError: The config does not fit the data, the model or the checkpoint; the message says how.
    """
    started = time.perf_counter()
    with ExitStack() as cleanup:
        world = cleanup.enter_context(start_world(config.device))
        folder = world.gather(choose_folder(config))[0]
        train_loader, val_loader, num_classes = build_loaders(config, world)
        cleanup.callback(train_loader.close)
        cleanup.callback(val_loader.close)
        run = start_run(config, world, folder, train_loader, num_classes)
        cleanup.enter_context(run.metrics)
        resume(run)
        describe(run)
        while run.progress.step < run.last_step:
            train_epoch(run, train_loader)
            evaluate_if_due(run, val_loader)
            save_checkpoint(run)
        return finish(run, total_seconds=time.perf_counter() - started)


def start_run(config: Config, world: World, folder: Path, loader: ImageLoader, num_classes: int) -> Run:
    """Make the model, optimizer and folder of a run that is at its first step."""
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    model = build_model(config.arch, num_classes=num_classes, resolution=config.data.resolution)
    model = model.to(world.device, memory_format=torch.channels_last)
    initialize_from_data(model, config, loader)
    torch.manual_seed(config.seed + world.rank)  # the same weights on every rank, but not the same dropped paths
    compile_mode = resolve_compile(config, world.device)
    if compile_mode:
        model.compile(mode=compile_mode)
    dtype = torch.bfloat16 if computes_in_bf16(config, world.device) else torch.float32
    steps_per_epoch = len(loader)
    if world.is_main:
        save_config(folder, config)
    return Run(
        config=config,
        world=world,
        folder=folder,
        model=model,
        parallel_model=world.wrap(model),
        optimizer=build_optimizer(model, config.optim),
        metrics=Metrics(folder, is_main=world.is_main, num_steps=total_steps(config.epochs, steps_per_epoch)),
        num_classes=num_classes,
        steps_per_epoch=steps_per_epoch,
        dtype=dtype,
        autocast=partial(torch.autocast, world.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
    )


def initialize_from_data(model: nn.Module, config: Config, loader: ImageLoader) -> None:
    """Let a model that wants to see images before training (such as one that whitens them) see the first batch."""
    initialize = getattr(model, "init_from_data", None)
    if initialize is not None:
        loader.set_epoch(0)
        images = next(iter(loader)).images
        initialize(normalize(images, config.augment, torch.float32))


def resolve_compile(config: Config, device: torch.device) -> str | None:
    """The torch.compile mode, or None."""
    if config.compile == "auto":
        return "default" if device.type == "cuda" else None
    return None if config.compile == "off" else config.compile


def computes_in_bf16(config: Config, device: torch.device) -> bool:
    """Whether the run uses bf16 autocast."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resume(run: Run) -> None:
    """Go on from the folder's checkpoint where the config asks for it and there is one."""
    path = run.folder / CHECKPOINT
    if run.config.resume == "never" or not path.exists():
        run.metrics.start_at(0)
        return
    state = checkpoint.load(path)
    arch = state["config"]["arch"]
    global_batch_size = run.config.batch_size * run.world.world_size
    for name, theirs, ours in (
        ("arch", arch, run.config.arch),
        ("number of classes", state["num_classes"], run.num_classes),
        ("global batch size", state["global_batch_size"], global_batch_size),
    ):
        if theirs != ours:
            raise ValueError(f"{path} is of {name} {theirs}, but this run has {ours}; change one, or name another --out")
    try:
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit the model or optimizer of this run: {error}") from error
    run.progress = Progress(**state["progress"])
    checkpoint.restore_random_state(state["random_states"], run.world)
    run.metrics.start_at(run.progress.step)
    run.metrics.say(f"going on from {path} at step {run.progress.step}")


def describe(run: Run) -> None:
    """Say what is about to happen."""
    config = run.config
    run.metrics.say(
        f"{config.arch}: {count_parameters(run.model) / 1e6:.1f} M parameters, {run.num_classes} classes, "
        f"{run.last_step} steps of {config.batch_size * run.world.world_size} images at {config.data.resolution} px "
        f"({config.epochs:g} epochs), {config.data.backend} loader, "
        f"{'bf16' if run.dtype == torch.bfloat16 else 'fp32'} on {run.world.world_size} x {device_name(run.world.device)}"
    )


def train_epoch(run: Run, loader: ImageLoader) -> None:
    """Train on the rest of the current epoch, or until the run's last step."""
    config, progress = run.config, run.progress
    run.model.train()
    loader.set_epoch(progress.epoch, skip_batches=progress.batch)
    totals, interval = Totals(run.world.device), Interval(progress)
    batches = Prefetcher(loader, run.world.device)
    waited_before = progress.wait_seconds
    last = time.perf_counter()
    for images, labels, index in batches:
        train_step(run, images, labels, index, totals)
        progress.step += 1
        progress.batch += 1
        progress.num_images += len(labels) * run.world.world_size
        log_now = progress.step % config.log_every_steps == 0 or progress.step == run.last_step
        sums = run.world.sum(totals.sums().clone()).tolist() if log_now else None  # waits for the device
        now = time.perf_counter()
        progress.train_seconds += now - last
        progress.wait_seconds = waited_before + batches.wait_seconds
        if sums is not None:
            log_interval(run, interval, sums)
            totals, interval = Totals(run.world.device), Interval(progress)
        if config.checkpoint_every_steps and progress.step % config.checkpoint_every_steps == 0:
            save_checkpoint(run)
        last = time.perf_counter()
        if progress.step == run.last_step:
            break
    if loader.skipped:
        run.metrics.say(f"epoch {progress.epoch}: left out {len(loader.skipped)} samples, such as {loader.skipped[0]}")
    if progress.batch == run.steps_per_epoch:
        progress.epoch += 1
        progress.batch = 0


def train_step(run: Run, images: Tensor, labels: Tensor, index: Tensor, totals: Totals) -> None:
    """One optimizer step; nothing in it waits for the device."""
    config, step = run.config, run.progress.step
    generator = torch.Generator(run.world.device).manual_seed((config.seed << 40 ^ step << 12 ^ run.world.rank) % 2**63)
    inputs = augment(
        images, config.augment, index=index, epoch=run.progress.epoch, generator=generator, dtype=run.dtype
    )
    factor = lr_factor(
        config.schedule, step=step, num_steps=run.schedule_steps, steps_per_epoch=run.steps_per_epoch
    )
    set_lr(run.optimizer, factor)
    with run.autocast():
        logits = run.parallel_model(inputs).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    loss.backward()
    clip_gradients(run.model, config.optim.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    totals.add(loss, logits, labels)


class Interval:
    """What has happened since its construction: for the figures of one log line."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start = (progress.num_images, progress.train_seconds, progress.wait_seconds)

    def rates(self) -> tuple[float, float]:
        """Images per second of training time, and the share of it spent waiting for data."""
        now = (self._progress.num_images, self._progress.train_seconds, self._progress.wait_seconds)
        images, seconds, waited = (later - earlier for later, earlier in zip(now, self._start, strict=True))
        return images / seconds, waited / seconds


def log_interval(run: Run, interval: Interval, sums: list[float]) -> None:
    """Log the training metrics since the last time.

    Raises:
        ValueError: The loss is no longer finite.
    """
    loss_sum, hits, count = sums
    progress = run.progress
    if not math.isfinite(loss_sum):
        raise ValueError(f"the loss is {loss_sum} at step {progress.step}; a lower --optim.lr may help")
    images_per_second, wait_fraction = interval.rates()
    run.metrics.log(
        "train",
        step=progress.step,
        epoch=progress.epoch,
        loss=loss_sum / count,
        accuracy=hits / count,
        lr=run.optimizer.param_groups[0]["lr"],
        images_per_second=images_per_second,
        data_wait_fraction=wait_fraction,
        train_seconds=progress.train_seconds,
    )


def evaluate_if_due(run: Run, loader: ImageLoader) -> None:
    """Evaluate at the end of the run, and after the epochs that the config names."""
    progress, config = run.progress, run.config
    epoch_is_due = progress.batch == 0 and progress.epoch % config.eval_every_epochs == 0
    if not epoch_is_due and progress.step < run.last_step:
        return
    start = time.perf_counter()
    result: Evaluation = evaluate(
        run.model, loader, config, world=run.world, dtype=run.dtype, autocast=run.autocast()
    )
    progress.eval_seconds += time.perf_counter() - start
    progress.top1, progress.top1_averaged = result.top1, result.top1_averaged
    run.metrics.log(
        "eval",
        step=progress.step,
        epoch=progress.epoch,
        top1=result.top1,
        top1_averaged=result.top1_averaged,
        loss=result.loss,
        num_images=result.num_images,
        train_seconds=progress.train_seconds,
    )


def save_checkpoint(run: Run) -> None:
    """Write everything that resuming needs."""
    random_states = checkpoint.random_states(run.world)
    if not run.world.is_main:
        return
    state = {
        "config": to_dict(run.config),
        "num_classes": run.num_classes,
        "global_batch_size": run.config.batch_size * run.world.world_size,
        "progress": asdict(run.progress),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random_states": random_states,
    }
    checkpoint.save(run.folder / CHECKPOINT, state)


def finish(run: Run, *, total_seconds: float) -> dict[str, Any]:
    """Write result and curves and say how it went."""
    config, progress = run.config, run.progress
    result: dict[str, Any] = {
        "preset": config.preset,
        "arch": config.arch,
        "num_parameters": count_parameters(run.model),
        "epochs": config.epochs,
        "steps": progress.step,
        "top1": progress.top1,
        "top1_averaged": progress.top1_averaged,
        "train_seconds": progress.train_seconds,
        "eval_seconds": progress.eval_seconds,
        "images_per_second": progress.num_images / progress.train_seconds,
        "data_wait_fraction": progress.wait_seconds / progress.train_seconds,
        "device": device_name(run.world.device),
        "world_size": run.world.world_size,
        "seed": config.seed,
        **provenance(),
    }
    if run.world.is_main:
        write_json(run.folder / RESULT, result)
        curves = plot_run(run.folder)
        averaged = f" ({100 * progress.top1_averaged:.2f} % averaged)" if progress.top1_averaged is not None else ""
        rest = total_seconds - progress.train_seconds - progress.eval_seconds
        for line in (
            f"accuracy    {100 * (progress.top1 or 0):.2f} %{averaged} on {config.data.val}",
            f"speed       {result['images_per_second']:,.0f} images/s",
            f"time        training {progress.train_seconds / 60:.1f} min, of which waiting for data "
            f"{100 * result['data_wait_fraction']:.2f} %; evaluation {progress.eval_seconds / 60:.1f} min; "
            f"start and checkpoints {max(0.0, rest) / 60:.1f} min",
            f"checkpoint  {run.folder / CHECKPOINT}",
            f"curves      {curves}",
        ):
            run.metrics.say(line)
    return result


def count_parameters(model: nn.Module) -> int:
    """All of the model's parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())
