"""A run that saves under hard conditions: the disk is full, or a signal asks it to stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from fastvit_train.run import Run, save_checkpoint
from fastvit_train.run_folder import CHECKPOINT
from fastvit_train.signals import RunStopped
from loaders.errors import FastvitError

__all__ = ["check_saved", "save_at_ctrl_c", "save_or_warn", "stop_if_asked", "stop_is_asked", "stop_run"]


def save_or_warn(save: Callable[[Run], None], run: Run) -> None:
    """Call `save`; where the file cannot be written, say so and let the run go on: the old file stays as it is."""
    with run.watchdog.stage("writing a checkpoint"):
        try:
            save(run)
        except OSError as error:
            run.checkpoint_time = time.monotonic()  # the next one is written when it is due, not after every step
            run.failed_saves += 1
            run.save_error = str(error)
            run.metrics.say(f"WARNING     {error}; training continues, and the file before it stays")
        else:
            run.save_error = None


def check_saved(run: Run) -> None:
    """Say at the end of the run what was not written.

    Raises:
        FastvitError: The last file was not: the run is done, but what it has learned is not on disk.
    """
    if run.failed_saves:
        run.metrics.say(f"WARNING     {run.failed_saves} times a checkpoint could not be written, see above")
    if run.save_error is not None:
        raise FastvitError(
            f"the run is done, but its last checkpoint is not written ({run.save_error}); make room, then repeat the "
            "steps since the checkpoint before it with --resume auto"
        )


def stop_is_asked(run: Run) -> bool:
    """Whether a signal asked any rank to stop; all ranks call it after the same step.

    Several ranks agree on it only where they wait for each other anyway: at log steps and at the ends of epochs.
    """
    progress = run.progress
    if run.world.world_size > 1 and progress.batch and progress.step % run.config.log_every_steps:
        return False
    return run.world.any(run.stop_signal.received is not None)


def stop_run(run: Run) -> NoReturn:
    """Write a checkpoint and end the run.

    Raises:
        RunStopped: A signal asked for it.
        KeyboardInterrupt: Ctrl-C did; the message says how to continue.
        OSError: On the main rank, when the checkpoint cannot be written.
    """
    with run.watchdog.stage("writing a checkpoint"):
        save_checkpoint(run)
    if run.stop_signal.received == "SIGINT":
        raise KeyboardInterrupt(_what_is_left(run))
    run.metrics.say(
        f"stopped     by {run.stop_signal.received or 'a signal'} at step {run.progress.step}; --resume auto "
        f"continues from {run.folder / CHECKPOINT}"
    )
    raise RunStopped


@contextmanager
def save_at_ctrl_c(run: Run) -> Iterator[None]:
    """Write a checkpoint where Ctrl-C comes while the run waits for a batch; a step is finished before: `stop_run`.

    Raises:
        KeyboardInterrupt: The body did; the message says what there is to continue from.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise
        # Several ranks would have to meet for it, and each is somewhere else.
        if (
            not run.stop_signal.is_urgent
            and run.world.world_size == 1
            and run.progress.step > (run.checkpoint_step or 0)
        ):
            save_or_warn(save_checkpoint, run)
        raise KeyboardInterrupt(_what_is_left(run)) from None


def _what_is_left(run: Run) -> str:
    stopped = f"interrupted at step {run.progress.step}"
    if run.checkpoint_step is None:
        return f"{stopped}, before its first checkpoint"
    return f"{stopped}; --resume auto continues from step {run.checkpoint_step}: {run.checkpoint_path}"


def stop_if_asked(run: Run) -> None:
    """Write a checkpoint and end the run where a signal asks for it.

    Raises:
        RunStopped: One did.
        KeyboardInterrupt: Ctrl-C did.
    """
    if stop_is_asked(run):
        stop_run(run)
