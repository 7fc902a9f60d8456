"""A run's folder: where it lies, and the files in it that outlive the run."""

import errno
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from fastvit_train.presets import run_name
from loaders.atomic_file import atomic_file, remove_leftovers
from loaders.errors import FastvitError

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CONFIG",
    "CURVES",
    "METRICS",
    "REPORT",
    "RESULT",
    "claim_folder",
    "find_checkpoints",
    "older_checkpoint",
    "remove_old_checkpoints",
    "save_config",
    "write_json",
]

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
CONFIG = "config.json"
CURVES = "curves.png"
METRICS = "metrics.jsonl"
REPORT = "report.html"
RESULT = "result.json"
_LOCK = ".lock"


@contextmanager
def claim_folder(config: Config) -> Iterator[Path]:
    """The folder where the run's files go, made and held for this process; see `Config.out` and `Config.resume`.

    The kernel lets go of it when the process ends, however it ends. What killed processes left half written in it is
    removed; the folder is removed again where nothing came into it.

    Raises:
        FastvitError: Another process trains into it, `out` holds a run already and `resume` is not `auto`, or torchrun
            is to start the run again after a failure and `resume` is not `auto`.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and config.resume == "never":
        raise FastvitError(
            f"torchrun's --max-restarts {restarts} starts the run again after a failure; without --resume auto that "
            "is refused or begins at the first step; add --resume auto, or leave --max-restarts out"
        )
    with _explained(config):
        folder, is_new = _make_folder(config)
        lock = _lock(folder)
    try:
        if config.resume == "never" and find_checkpoints(folder):
            raise FastvitError(f"{folder} holds a run already; continue it with --resume auto, or name another --out")
        for name in (CHECKPOINT, BEST, CONFIG, METRICS, REPORT, RESULT):
            remove_leftovers(folder / name)
        try:
            yield folder
        finally:
            if is_new and os.listdir(folder) == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()
    finally:
        os.close(lock)


@contextmanager
def _explained(config: Config) -> Iterator[None]:
    """Say of what the file system refuses which folder it was and what helps."""
    try:
        yield
    except OSError as error:
        what = "the run folder runs/" if config.out is None else f"--out {config.out}"
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is in its place" if is_file else error.strerror
        raise FastvitError(f"{what} cannot be used: {reason}; name another folder with --out") from error


def _refuse_data(folder: Path, config: Config) -> None:
    """Refuse a run folder among the images, where each folder is a class."""
    for option, data in (("train", config.data.train), ("val", config.data.val)):
        if data.is_dir() and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(data)):
            raise FastvitError(
                f"the run folder {folder} would lie in the data, --data.{option} {data}, and be taken for a class; "
                "name one outside with --out"
            )


def _make_folder(config: Config) -> tuple[Path, bool]:
    """The folder, and whether it is new: of several runs that start together, each makes its own."""
    _refuse_data(config.out or Path("runs"), config)
    if config.out is not None:
        is_new = not config.out.exists()
        config.out.mkdir(parents=True, exist_ok=True)
        return config.out, is_new
    name = run_name(config).replace("/", "-")
    number = 1
    while True:
        folder = _numbered(name, number)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if config.resume == "auto" and folder.exists() and not _numbered(name, number + 1).exists():
            return folder, False
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder, True


def _numbered(name: str, number: int) -> Path:
    return Path("runs") / (name if number == 1 else f"{name}-{number}")


def _lock(folder: Path) -> int:
    """Keep other processes from training into the folder, as long as the descriptor that is returned is open.

    By a POSIX lock: unlike that of flock, it is not handed on to forked workers, which outlive a killed run by seconds.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise FastvitError(
                f"{folder} is in use by {holder}; wait until it is done, or name another --out"
            ) from None
        warnings.warn(f"{folder} cannot be locked ({error}): start no other run in it", stacklevel=4)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder that a run can be continued from, the newest first."""
    newest = folder / CHECKPOINT
    return [newest] * newest.exists() + [path for _, path in sorted(_older_checkpoints(folder), reverse=True)]


def older_checkpoint(folder: Path, step: int) -> Path:
    """The name of the checkpoint of this step, once there is a newer one."""
    return folder / f"checkpoint-{step}.pt"


def _older_checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("checkpoint-*.pt"):
        number = path.stem.removeprefix("checkpoint-")
        if number.isdecimal():
            yield int(number), path


def remove_old_checkpoints(folder: Path, *, step: int, keep: int) -> None:
    """Leave `keep` checkpoints: that of `step`, which is the newest, and those of the last steps before it."""
    older = sorted(_older_checkpoints(folder), reverse=True)
    kept = [path for number, path in older if number < step][: keep - 1]
    for _, path in older:
        if path not in kept:
            path.unlink(missing_ok=True)


def save_config(folder: Path, config: Config) -> None:
    """Write the whole config as `config.json`, which `fastvit-train --config` takes."""
    write_json(folder / CONFIG, to_dict(config))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` to `path`, replacing it at once."""
    with atomic_file(path) as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")
