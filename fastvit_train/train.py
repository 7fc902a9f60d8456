"""Training, from a config to a result: `train` tells the story, the functions below it are its steps."""

import math
import time
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from fastvit_train.augment import Augmented, augment
from fastvit_train.config import Config
from fastvit_train.data import build_loaders, share_of_batch
from fastvit_train.device import keep_freed_memory, peak_memory
from fastvit_train.device_clock import device_clock
from fastvit_train.distributed import start_world, without_averaging
from fastvit_train.evaluate import evaluate
from fastvit_train.forecast import Forecast
from fastvit_train.loss import classification_loss
from fastvit_train.metrics import Totals
from fastvit_train.models import set_patch_drop
from fastvit_train.optim import clip_gradients, set_lr
from fastvit_train.prefetch import Prefetcher
from fastvit_train.report import announce, report
from fastvit_train.run import Run, resume, save_best, save_checkpoint, start_run
from fastvit_train.run_folder import choose_folder
from fastvit_train.schedule import lr_factor, phase_of
from fastvit_train.step_timer import Interval, StepTimer
from fastvit_train.trackers import require_trackers, tracked
from loaders import ImageLoader
from loaders.errors import FastvitError

__all__ = [
    "add_gradients",
    "add_gradients_of",
    "evaluate_if_due",
    "log_interval",
    "say_what_was_skipped",
    "train",
    "train_epoch",
    "train_step",
]


def train(config: Config) -> dict[str, Any]:
    """Train a classifier and leave checkpoint, metrics, curves and result in its run folder.

    Returns:
        What `result.json` holds.

    Raises:
        FastvitError: The config does not fit the data, the model or the checkpoint; the message says how.
    """
    started = time.perf_counter()
    require_trackers(config.trackers)
    with ExitStack() as cleanup:
        world = cleanup.enter_context(start_world(config.device))
        if world.device.type == "cpu":
            keep_freed_memory()
        folder = world.gather(choose_folder(config))[0]
        train_loader, val_loader, num_classes = build_loaders(config, world)
        cleanup.callback(train_loader.close)
        cleanup.callback(val_loader.close)
        run = start_run(config, world, folder, train_loader, num_classes)
        cleanup.enter_context(run.metrics)
        resume(run)
        cleanup.enter_context(tracked(run))
        announce(run)
        forecast, timer = Forecast(run), StepTimer(device_clock(world.device))
        while run.progress.step < run.last_step:
            train_epoch(run, train_loader, forecast, timer)
            evaluate_if_due(run, val_loader)
            save_checkpoint(run)
        return report(run, total_seconds=time.perf_counter() - started)


def train_epoch(run: Run, loader: ImageLoader, forecast: Forecast, timer: StepTimer) -> None:
    """Train on the rest of the current epoch, or until the run's last step."""
    config, progress = run.config, run.progress
    run.model.train()
    phase = phase_of(config, progress.epoch)
    set_patch_drop(run.model, phase.patch_drop)
    loader.set_epoch(progress.epoch, resolution=phase.resolution, skip_batches=progress.batch)
    totals, interval = Totals(run.world.device), Interval(run)
    timer.start(progress, flops_per_image=run.flops_per_image[phase])
    for images, labels, index in Prefetcher(loader, run.world.device, timer.clock):
        timer.begin_step(*images.shape, phase.patch_drop)
        train_step(run, images, labels, index, totals)
        progress.step += 1
        progress.batch += 1
        progress.num_images += len(labels) * run.world.world_size
        log_now = progress.step % config.log_every_steps == 0 or progress.step == run.last_step
        checkpoint_due = config.checkpoint_every_steps and progress.step % config.checkpoint_every_steps == 0
        checkpoint_now = checkpoint_due and progress.batch < run.steps_per_epoch  # at the end it follows the evaluation
        pause = log_now or checkpoint_now or forecast.is_due(progress.step)
        if pause:
            timer.stop()
        forecast.update(run)
        if log_now:
            log_interval(run, interval, run.world.sum(totals.sums().clone()).tolist())
            totals, interval = Totals(run.world.device), Interval(run)
        if progress.step == run.last_step:
            break
        if checkpoint_now:
            save_checkpoint(run)
        if pause:
            timer.start(progress, flops_per_image=run.flops_per_image[phase])
    else:
        if not progress.batch:
            raise FastvitError(f"{config.data.train} gave no image to train on: {loader.skipped[0]}")
        progress.batch = run.steps_per_epoch  # the loader has fewer where every sample of a batch was left out
    timer.stop()  # before the evaluation: the device may still be at the last steps
    say_what_was_skipped(run, loader)
    if progress.batch == run.steps_per_epoch:
        progress.epoch += 1
        progress.batch = 0


def say_what_was_skipped(run: Run, loader: ImageLoader) -> None:
    """Count the samples that a loader left out of its epoch, with an example."""
    if loader.skipped:
        run.metrics.say(f"left out {len(loader.skipped)} samples, such as {loader.skipped[0]}")


def train_step(run: Run, images: Tensor, labels: Tensor, index: Tensor, totals: Totals) -> None:
    """One optimizer step; nothing in it waits for the device."""
    config, step = run.config, run.progress.step
    generator = torch.Generator(run.world.device).manual_seed((config.seed << 40 ^ step << 12 ^ run.world.rank) % 2**63)
    batch = augment(
        images,
        labels,
        config.augment,
        index=index,
        epoch=run.progress.epoch,
        num_classes=run.num_classes,
        generator=generator,
        dtype=run.dtype,
        # A batch from which the loader left samples out is not worth compiling for.
        compiled=run.compile_augment and len(images) == share_of_batch(config, run.world.world_size),
    )
    factor = lr_factor(config.schedule, step=step, num_steps=run.schedule_steps, steps_per_epoch=run.steps_per_epoch)
    set_lr(run.optimizer, factor)
    add_gradients(run, batch, totals)
    clip_gradients(run.model, config.optim.clip_norm)
    run.optimizer.step()
    run.model.zero_grad(set_to_none=True)
    if run.ema is not None:
        run.ema.update(run.model, step=step + 1)


def add_gradients(run: Run, batch: Augmented, totals: Totals) -> None:
    """Add up the gradients of a batch's mean loss, part by part as `accumulate` has it."""
    parts = list(zip(*(whole.chunk(run.config.accumulate) for whole in batch), strict=True))
    # What autocast makes of the weights lasts until the outermost one ends: all parts share it.
    with torch.autocast(run.world.device.type, enabled=False):
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else without_averaging(run.parallel_model):
                add_gradients_of(Augmented(*part), run, share=len(part[0]) / len(batch.images), totals=totals)


def add_gradients_of(part: Augmented, run: Run, *, share: float, totals: Totals) -> None:
    """Add the gradients of `share` times the mean loss of a part."""
    config = run.config
    with run.autocast():
        logits = run.parallel_model(part.images).float()
        loss = classification_loss(logits, part.targets, kind=config.loss, label_smoothing=config.label_smoothing)
    (loss * share).backward()  # type: ignore[no-untyped-call]
    totals.add(loss, logits, part.labels)


def log_interval(run: Run, interval: Interval, sums: list[float]) -> None:
    """Log the training metrics since the last time.

    Raises:
        FastvitError: The loss is no longer finite.
    """
    loss_sum, hits, count = sums
    progress = run.progress
    if not math.isfinite(loss_sum):
        raise FastvitError(f"the loss is {loss_sum} at step {progress.step}; a lower --optim.lr may help")
    run.metrics.log(
        "train",
        step=progress.step,
        epoch=progress.epoch,
        loss=loss_sum / count,
        accuracy=hits / count,
        lr=run.optimizer.param_groups[0]["lr"],
        **interval.rates()._asdict(),
        **peak_memory(run.world.device),
        train_seconds=progress.train_seconds,
        startup_seconds=progress.train_seconds - progress.steady_seconds,
    )


def evaluate_if_due(run: Run, loader: ImageLoader) -> None:
    """Evaluate at the end of the run, and after the epochs that the config names."""
    progress, config = run.progress, run.config
    epoch_is_due = progress.batch == 0 and progress.epoch % config.eval_every_epochs == 0
    if not epoch_is_due and progress.step < run.last_step:
        return
    start = time.perf_counter()
    result = evaluate(run.evaluated_model, loader, config, world=run.world, dtype=run.dtype, autocast=run.autocast())
    progress.eval_seconds += time.perf_counter() - start
    say_what_was_skipped(run, loader)
    progress.top1, progress.top1_averaged = result.top1, result.top1_averaged
    if progress.best_top1 is None or result.top1 > progress.best_top1:
        progress.best_top1, progress.best_step = result.top1, progress.step
        save_best(run)
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
