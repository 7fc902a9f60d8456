"""A run that saves under hard conditions: the disk is full, or a signal asks it to stop."""

import time
from collections.abc import Callable
from typing import NoReturn

from fastvit_train.run import Run, save_checkpoint
from fastvit_train.run_folder import CHECKPOINT
from fastvit_train.signals import RunStopped
from loaders.errors import FastvitError

__all__ = ["check_saved", "save_or_warn", "stop_if_asked", "stop_is_asked", "stop_run"]


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
        RunStopped: Always.
        OSError: On the main rank, when the checkpoint cannot be written.
    """
    with run.watchdog.stage("writing a checkpoint"):
        save_checkpoint(run)
    run.metrics.say(
        f"stopped     by {run.stop_signal.received or 'a signal'} at step {run.progress.step}; --resume auto "
        f"continues from {run.folder / CHECKPOINT}"
    )
    raise RunStopped


def stop_if_asked(run: Run) -> None:
    """Write a checkpoint and end the run where a signal asks for it.

    Raises:
        RunStopped: One did.
    """
    if stop_is_asked(run):
        stop_run(run)
