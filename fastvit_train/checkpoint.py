"""Checkpoints: written whole or not at all, read without executing anything."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvit_train.distributed import World
from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError, reason_of

__all__ = [
    "FORMAT_VERSION",
    "UnusableCheckpointError",
    "is_finite",
    "load",
    "random_states",
    "restore_random_state",
    "save",
]

FORMAT_VERSION = 3


class UnusableCheckpointError(FastvitError):
    """A checkpoint is damaged, or not ours; the message says why, without the file's name."""


def save(path: Path, state: dict[str, Any], *, keep_previous_as: Path | None = None) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) to `path`, replacing it at once.

    Args:
        path: The file.
        state: What goes into it.
        keep_previous_as: The name that the file which stands at `path` gets, once all of the new one is on disk.

    Raises:
        OSError: The disk is full or not writable; all files are as they were.
    """
    try:
        with atomic_file(path) as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
            if keep_previous_as is not None and path.exists():
                file.flush()
                os.fsync(file.fileno())
                path.rename(keep_previous_as)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raises
        raise OSError(f"the checkpoint {path} cannot be written: {error}; is the disk full?") from error


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU, unpickling nothing but tensors and plain containers.

    Raises:
        UnusableCheckpointError: The file is damaged or not ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        if damaged is not None:
            raise UnusableCheckpointError(f"it is damaged: the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, UnusableCheckpointError):
        raise
    except Exception as error:  # there is no end of the ways in which a foreign file can fail
        raise UnusableCheckpointError(f"it cannot be read: {reason_of(error)}") from error
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise UnusableCheckpointError("it is not a checkpoint of this version of fastvit")
    return state


def is_finite(state: Any) -> bool:  # noqa: ANN401 - nested containers
    """Whether all numbers in the tensors of `state` are finite; waits for the device once."""
    norm = torch.nn.utils.get_total_norm([tensor.detach() for tensor in _floating(state)])
    return bool(norm.isfinite())


def _floating(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 - nested containers
    """The tensors of floating-point numbers in dicts, lists and tuples."""
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _floating(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floating(item)


def random_states(world: World) -> list[dict[str, torch.Tensor]]:
    """The states of torch's global generators on every rank; all other randomness is a function of seed and step."""
    state = {"cpu": torch.get_rng_state()}
    if world.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(world.device)
    return world.gather(state)


def restore_random_state(states: list[dict[str, torch.Tensor]], world: World) -> None:
    """Set this rank's generators; with another number of ranks than before they stay as they are."""
    if len(states) != world.world_size:
        return
    state = states[world.rank]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and world.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], world.device)
