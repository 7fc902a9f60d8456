"""Who converts what to where: one process at a time, and an interrupted conversion only goes on as the same one."""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loaders.atomic_file import atomic_file, remove_leftovers
from loaders.errors import FastvitError
from loaders.file_lock import file_lock
from tools.convert.job import Job

__all__ = ["INTERRUPTED", "claim", "locked"]

INTERRUPTED = "interrupted; continue with the same options and --resume"
"""What to tell whoever interrupts a conversion."""


@contextmanager
def locked(job_file: Path) -> Iterator[None]:
    """Keep other processes from converting to the same place.

    Raises:
        FastvitError: One is at it, or the file of the lock cannot be made.
    """
    path = job_file.with_suffix(".lock")
    with file_lock(path, busy=f"{path}: another process is converting to it; wait for it, or name another file"):
        yield


def claim(
    job_file: Path,
    job: Job,
    *,
    resume: bool,
    overwrite: bool,
    may_grow: Collection[str] = (),
    clear: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Note in `job_file`, which lies beside the files until they are whole, what is being converted.

    Args:
        job_file: What the note is written to.
        job: What is being converted.
        resume: Go on where there is a note of the same.
        overwrite: Start anew whatever there is.
        may_grow: Numbers of the job that may be larger than in the conversion that goes on.
        clear: Removes what another conversion left, before there is a note that could be taken for one about it.

    Returns:
        The note of the interrupted conversion of the same that goes on, as it was made, or None.

    Raises:
        FastvitError: There is an interrupted one, but it is not to go on, or is another one.
        OSError: The file cannot be written.
    """
    wanted = json.loads(json.dumps({"part": job.part, "num_planned": job.num_planned, **job.identity}))
    if job_file.exists() and resume:
        try:
            found = dict(json.loads(job_file.read_bytes()))
        except (ValueError, TypeError, RecursionError) as error:
            raise FastvitError(f"{job_file}: damaged; start over with --overwrite instead of --resume") from error
        for key in wanted | found:
            was, value = found.get(key), wanted.get(key)
            if was != value and not (key in may_grow and type(was) is int and was < value):
                raise FastvitError(
                    f"{job_file}: the interrupted conversion had another {key} ({str(was)[:80]} where it is "
                    f"now {str(value)[:80]}); pass the same options, or start over with --overwrite instead of --resume"
                )
        return found
    if job_file.exists() and not overwrite:
        raise FastvitError(
            f"{job_file}: a conversion was interrupted here; continue with --resume, or start over with --overwrite"
        )
    job_file.parent.mkdir(parents=True, exist_ok=True)
    job_file.unlink(missing_ok=True)
    clear()
    remove_leftovers(job_file)
    with atomic_file(job_file) as file:
        file.write(json.dumps(wanted, indent=2).encode() + b"\n")
    return None
