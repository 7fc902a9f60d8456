"""A checkpoint that cannot be written, as on a full disk: training goes on, with a warning that cannot be missed."""

from collections.abc import Callable

from fastvit_train.run import Run
from loaders.errors import FastvitError

__all__ = ["check_saved", "save_or_warn"]


def save_or_warn(save: Callable[[Run], None], run: Run) -> None:
    """Call `save`; where the file cannot be written, say so and let the run go on: the old file stays as it is."""
    with run.watchdog.stage("writing a checkpoint"):
        try:
            save(run)
        except OSError as error:
            run.failed_saves += 1
            run.save_error = str(error)
            run.metrics.say(f"WARNING     {error}; training goes on, and the file before it stays")
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
