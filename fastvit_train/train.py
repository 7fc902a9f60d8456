"""Training, from a config to a result: `train` tells the story, the functions below it are its steps."""

import math
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvit_train.augment import Augmented, Rows, augment
from fastvit_train.batch_norm import frozen_statistics
from fastvit_train.config import Config
from fastvit_train.data import build_loaders, check_decoder, share_of_batch
from fastvit_train.device import keep_freed_memory, peak_memory
from fastvit_train.device_clock import device_clock
from fastvit_train.distributed import World, start_world
from fastvit_train.evaluate import evaluate
from fastvit_train.failure import explain_errors
from fastvit_train.forecast import Forecast
from fastvit_train.loss import classification_loss, distillation_loss
from fastvit_train.metrics import Metrics, Totals
from fastvit_train.models import check_resolution, set_patch_drop
from fastvit_train.optim import clip_gradients, set_lr
from fastvit_train.prefetch import Prefetcher
from fastvit_train.report import announce, report
from fastvit_train.restore import Restored, restore
from fastvit_train.resume import resume
from fastvit_train.run import (
    Run,
    average_batch_norm,
    checkpoint_is_due,
    diverged,
    save_best,
    save_checkpoint,
    start_run,
)
from fastvit_train.run_folder import RESULT, claim_folder, find_checkpoints, save_config
from fastvit_train.saving import check_saved, save_at_ctrl_c, save_or_warn, stop_if_asked, stop_is_asked, stop_run
from fastvit_train.schedule import lr_factor, phase_of
from fastvit_train.sharding import without_averaging
from fastvit_train.step_timer import Interval, StepTimer
from fastvit_train.teacher import TEACHER, Teacher, build_teacher, check_teacher, teacher_config
from fastvit_train.trackers import require_trackers, tracked
from fastvit_train.watchdog import WatchedLoader
from loaders import ImageLoader
from loaders.atomic_file import clear_os_errors
from loaders.errors import FastvitError

__all__ = [
    "add_gradients",
    "add_gradients_of",
    "add_nothing",
    "augmented",
    "evaluate_if_due",
    "evaluation_is_due",
    "find_teacher",
    "images_per_rank",
    "log_interval",
    "parts_of",
    "prepare_step",
    "say_what_was_skipped",
    "step_on_device",
    "train",
    "train_epoch",
    "train_in",
    "train_step",
]


def train(config: Config) -> dict[str, Any]:
    """Train a classifier and leave checkpoint, metrics, curves and result in its run folder.

    Returns:
        What `result.json` holds.

    Raises:
        FastvitError: The config does not fit the data, the model or the checkpoint; the message says how.
        RunStopped: SIGTERM or SIGUSR1 came; the checkpoint is written.
        KeyboardInterrupt: Ctrl-C came; once training has begun the message says what there is to continue from.
    """
    require_trackers(config.trackers)
    check_resolution(config.arch, resolution=config.data.resolution, config=config.model, phases=config.phases)
    # Longer than a batch is waited for: the rank whose loader stands still is to be the one that says so.
    with start_world(config.device, timeout_seconds=config.data.timeout_seconds + 600) as world:
        check_decoder(config.data, world.device)
        check_teacher(config, world)
        if world.device.type == "cpu":
            keep_freed_memory()
        return train_in(world, config)


def train_in(world: World, config: Config) -> dict[str, Any]:
    """Train a classifier on these ranks, its teacher first; see `train`."""
    with ExitStack() as cleanup:
        folder = world.from_main(lambda: cleanup.enter_context(claim_folder(config)))
        place = cleanup.enter_context(explain_errors(config, folder))
        checkpoints = world.from_main(lambda: find_checkpoints(folder))
        teacher = find_teacher(world, config, folder, is_resumed=bool(checkpoints))
        started = time.perf_counter()
        train_loader, val_loader, num_classes = build_loaders(config, world)
        cleanup.callback(train_loader.close)
        cleanup.callback(val_loader.close)
        run = start_run(config, world, folder, train_loader, num_classes, teacher=teacher, is_resumed=bool(checkpoints))
        resume(run, checkpoints)
        place.run = run
        if world.is_main:
            save_config(folder, config)
        cleanup.enter_context(run.metrics)
        cleanup.enter_context(tracked(run))
        announce(run)
        forecast, timer = Forecast(run), StepTimer(device_clock(world.device))
        cleanup.enter_context(save_at_ctrl_c(run))
        cleanup.enter_context(run.stop_signal)
        cleanup.enter_context(run.watchdog.watch(timeout_seconds=config.data.timeout_seconds, where=run.where))
        train_loader = WatchedLoader(train_loader, run.watchdog, config.data.train, use="training")
        val_loader = WatchedLoader(val_loader, run.watchdog, config.data.val, use="evaluation")
        while run.progress.step < run.last_step or evaluation_is_due(run):
            if not evaluation_is_due(run):  # else the run was stopped in it
                train_epoch(run, train_loader, forecast, timer)
            stop_if_asked(run)
            evaluate_if_due(run, val_loader)
            if checkpoint_is_due(run):
                save_or_warn(save_checkpoint, run)
        with clear_os_errors(folder / RESULT):
            result = report(run, total_seconds=time.perf_counter() - started)
        check_saved(run)
        return result


def find_teacher(world: World, config: Config, folder: Path, *, is_resumed: bool) -> Teacher | None:
    """The trained teacher of a run that distills: one that is there, or its own, which is trained first.

    Args:
        world: The ranks that share the run.
        config: The run.
        folder: Of the run.
        is_resumed: The run has learned from its teacher already, which stays as it is.

    Raises:
        FastvitError: It cannot be trained, is not there, or does not fit the run's images.
    """
    if not config.distill.is_on:
        return None
    if config.distill.teacher is None and not is_resumed:
        said = f"teacher     {config.distill.preset} is trained first, in {folder / TEACHER}"
        Metrics(folder, is_main=world.is_main, num_steps=0).say(said)
        train_in(world, teacher_config(config, folder))
    restored = world.from_main(partial(_restore_teacher, config, folder))
    teacher = build_teacher(restored.config, config, restored.num_classes)
    teacher.load(restored.model.state_dict())
    teacher.path, teacher.class_names, teacher.top1 = restored.path, restored.class_names, restored.progress.top1
    if config.distill.teacher is None:
        teacher.seconds = restored.progress.train_seconds + restored.progress.eval_seconds
    return teacher


def _restore_teacher(config: Config, folder: Path) -> Restored:
    own = folder / TEACHER
    if config.distill.teacher is None and not own.exists():
        raise FastvitError(
            f"{own} is gone, the teacher that the run in {folder} learns from; put it back, or start again with "
            "another --out"
        )
    return restore(config.distill.teacher or own)


def train_epoch(run: Run, loader: ImageLoader, forecast: Forecast, timer: StepTimer) -> None:
    """Train on the rest of the current epoch, or until the run's last step."""
    config, progress = run.config, run.progress
    run.model.train()
    phase = phase_of(config, progress.epoch)
    set_patch_drop(run.model, phase.patch_drop)
    loader.set_epoch(progress.epoch, resolution=phase.resolution, skip_batches=progress.batch)
    totals, interval = Totals(run.world.device), Interval(run)
    first_batch, images_before = progress.batch, progress.num_images
    timer.start(progress, flops_per_image=run.flops_per_image[phase])
    for images, labels, index in Prefetcher(loader, run.world.device, timer.clock):
        timer.begin_step(*images.shape, phase.patch_drop)
        train_step(run, images, labels, index, totals)
        progress.step += 1
        progress.batch += 1
        progress.num_images += len(labels) * run.world.world_size
        ends = progress.batch == run.steps_per_epoch or progress.step == run.last_step
        stop_now = not ends and stop_is_asked(run)
        save_now = not ends and (stop_now or checkpoint_is_due(run))  # at the end it follows the evaluation
        log_now = ends or save_now or progress.step % config.log_every_steps == 0
        pause = log_now or forecast.is_due(progress.step)
        if pause:
            timer.stop()  # waits for the device
        forecast.update(run)
        if log_now:
            log_interval(run, interval, run.world.sum(totals.sums().clone()).tolist())
            totals, interval = Totals(run.world.device), Interval(run)
        if progress.step == run.last_step:
            break
        if stop_now:
            stop_run(run)
        if save_now:
            save_or_warn(save_checkpoint, run)
        if pause and not ends:
            timer.start(progress, flops_per_image=run.flops_per_image[phase])
    example = say_what_was_skipped(run, loader)
    is_whole = first_batch == 0 and progress.batch == run.steps_per_epoch
    if example and is_whole and not any(run.world.gather(progress.num_images > images_before)):
        raise FastvitError(f"{config.data.train} gave no image to train on; {example}")
    if progress.batch == run.steps_per_epoch:
        progress.epoch += 1
        progress.batch = 0


def say_what_was_skipped(run: Run, loader: ImageLoader) -> str | None:
    """Say how many samples the loaders of all ranks left out of their epoch, with an example, which is returned."""
    if run.config.data.on_error == "raise":
        return None
    of_ranks = run.world.gather((len(loader.skipped), list(loader.skipped[:1])))
    examples = [f"{sample.name}: {sample.reason}" for _, first in of_ranks for sample in first]
    if not examples:
        return None
    count = sum(count for count, _ in of_ranks)
    run.metrics.say(f"left out {count} sample{'s' if count > 1 else ''}, such as {examples[0]}")
    return examples[0]


def train_step(run: Run, images: Tensor, labels: Tensor, index: Tensor, totals: Totals) -> None:
    """One optimizer step; nothing in it waits for the device, but in float16 the look at the gradients.

    A rank without images makes it with the others; without other ranks there is none to make.
    """
    world = run.world
    if world.world_size == 1 and not len(images):
        return
    prepare_step(run)
    # A batch from which the loader left samples out is not worth compiling for.
    is_whole = len(images) == share_of_batch(run.config, world.world_size)
    if run.step_graph is not None and is_whole:
        phase = phase_of(run.config, run.progress.epoch)
        totals.merge(run.step_graph.run(partial(step_on_device, run), (images, labels, index), phase))
    else:
        totals.merge(step_on_device(run, images, labels, index))


def prepare_step(run: Run) -> None:
    """Tell the device what is not the same in this step as in the one before it."""
    config, progress = run.config, run.progress
    factor = lr_factor(
        config.schedule, step=progress.step, num_steps=run.schedule_steps, steps_per_epoch=run.steps_per_epoch
    )
    set_lr(run.optimizer, factor)
    run.generator.manual_seed((config.seed << 40 ^ progress.step << 12) % 2**63)
    run.epoch.fill_(progress.epoch)
    if run.ema is not None:
        run.ema.set_step(progress.step + 1)


def step_on_device(run: Run, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """What the device does in a step: with the same shapes, always the same, so that a CUDA graph can hold it.

    Returns:
        The step's `Totals.sums`.
    """
    run.model.zero_grad(set_to_none=True)  # not after the step: `diverged` looks at the gradients of the last one
    totals = Totals(run.world.device)
    is_whole = len(images) == share_of_batch(run.config, run.world.world_size)
    batch = augmented(run, images, labels, index, compiled=run.compile_augment and is_whole)
    with nullcontext() if is_whole else torch.compiler.set_stance("force_eager"):
        add_gradients(run, batch, totals)
    run.scaler.unscale()
    clip_gradients(run.model, run.config.optim.clip_norm)
    run.scaler.step()
    if run.ema is not None:
        run.ema.update(run.model)
    return totals.sums()


def augmented(run: Run, images: Tensor, labels: Tensor, index: Tensor, *, compiled: bool) -> Augmented:
    """A rank's images as the model and the loss want them; there may be none."""
    config, world = run.config, run.world
    if not len(images):
        return Augmented(images.to(run.dtype), labels, labels)
    return augment(
        images,
        labels,
        config.augment,
        index=index,
        epoch=run.epoch,
        num_classes=run.num_classes,
        generator=run.generator,
        dtype=run.dtype,
        rows=Rows(world.rank, world.rank * share_of_batch(config, world.world_size), config.batch_size),
        compiled=compiled,
    )


def add_gradients(run: Run, batch: Augmented, totals: Totals) -> None:
    """Add up the gradients of a batch's mean loss, part by part."""
    parts = parts_of(batch, run.num_parts)
    mean_count = images_per_rank(run, len(batch.images))
    # What autocast makes of the weights lasts until the outermost one ends: all parts share it.
    with torch.autocast(run.world.device.type, enabled=False):
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else without_averaging(run.parallel_model):
                if len(part.images):
                    add_gradients_of(part, run, share=len(part.images) / mean_count, totals=totals)
                else:
                    add_nothing(part, run)


def parts_of(batch: Augmented, count: int) -> list[Augmented]:
    """Divide a batch into `count` parts, empty ones at the end where it has fewer images.

    Every rank has as many parts, so that the ranks meet in each.
    """
    return [Augmented(*part) for part in zip(*(whole.tensor_split(count) for whole in batch), strict=True)]


def images_per_rank(run: Run, count: int) -> float | Tensor:
    """The mean number of images that a rank has in this step, of which it has `count` itself.

    The gradients of the ranks are averaged: divided by this, each image counts the same, whatever its rank left out.
    """
    if run.config.data.on_error == "raise" or run.world.world_size == 1:  # then all have as many
        return count
    total = run.world.sum(torch.full((), count, dtype=torch.float32, device=run.world.device))
    return (total / run.world.world_size).clamp(min=1 / run.world.world_size)


def add_gradients_of(part: Augmented, run: Run, *, share: float | Tensor, totals: Totals) -> None:
    """Add the gradients of `share` times the mean loss of a part."""
    config = run.config
    with run.autocast():
        logits = run.parallel_model(part.images).float()
        loss = classification_loss(
            logits,
            part.targets,
            kind=config.loss,
            label_smoothing=config.label_smoothing,
            target_threshold=config.bce_target_threshold,
        )
        if run.teacher is not None:
            distill = config.distill
            from_teacher = distillation_loss(
                logits, run.teacher.logits(part.images), kind=distill.kind, temperature=distill.temperature
            )
            loss = torch.lerp(loss, from_teacher, distill.weight)
    run.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
    totals.add(loss, logits, part.labels)


def add_nothing(part: Augmented, run: Run) -> None:
    """Go through the model on a picture of nothing, for the other ranks: they wait for this rank's gradients."""
    with frozen_statistics(run.model), run.autocast():
        logits = run.parallel_model(part.images.new_zeros((1, *part.images.shape[1:]))).float()
    (logits.sum() * 0).backward()


def log_interval(run: Run, interval: Interval, sums: list[float]) -> None:
    """Log the training metrics since the last time.

    Raises:
        FastvitError: The loss is no longer finite, or in float16 the gradients.
    """
    loss_sum, hits, count = sums
    progress = run.progress
    if not count:  # every sample since the last time was left out
        return
    if not math.isfinite(loss_sum):
        raise diverged(run, f"the loss is {loss_sum}")
    run.metrics.log(
        "train",
        step=progress.step,
        epoch=progress.epoch,
        loss=loss_sum / count,
        accuracy=hits / count,
        lr=run.optimizer.lr,
        loss_scale=run.scaler.read_scale(),
        **interval.rates()._asdict(),
        **peak_memory(run.world.device),
        train_seconds=progress.train_seconds,
        startup_seconds=progress.train_seconds - progress.steady_seconds,
    )


def evaluation_is_due(run: Run) -> bool:
    """Whether the run is at its end or after an epoch that the config names, and not evaluated there yet."""
    progress = run.progress
    epoch_is_due = progress.batch == 0 and progress.epoch % run.config.eval_every_epochs == 0
    return (epoch_is_due or progress.step >= run.last_step) and progress.evaluated_step != progress.step


def evaluate_if_due(run: Run, loader: ImageLoader) -> None:
    """Evaluate at the end of the run, and after the epochs that the config names."""
    progress, config = run.progress, run.config
    if not evaluation_is_due(run):
        return
    start = time.perf_counter()
    average_batch_norm(run)
    result = evaluate(
        run.evaluated_model,
        loader,
        config,
        world=run.world,
        dtype=run.dtype,
        autocast=run.autocast(),
        # Ranks may differ in their number of batches: several of them finish the evaluation first.
        after_batch=partial(stop_if_asked, run) if run.world.world_size == 1 else None,
    )
    progress.evaluated_step = progress.step
    progress.eval_seconds += time.perf_counter() - start
    say_what_was_skipped(run, loader)
    progress.top1, progress.top1_averaged = result.top1, result.top1_averaged
    if progress.best_top1 is None or result.top1 > progress.best_top1:
        progress.best_top1, progress.best_step = result.top1, progress.step
        save_or_warn(save_best, run)
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
