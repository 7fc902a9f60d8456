"""Checkpoints: written whole or not at all, read without executing anything."""

import pickle
from pathlib import Path
from typing import Any

import torch

from fastvit_train.distributed import World
from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError

__all__ = ["FORMAT_VERSION", "load", "random_states", "restore_random_state", "save"]

FORMAT_VERSION = 2


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) to `path`, replacing it at once.

    Raises:
        OSError: The disk is full or not writable; `path` is as it was.
    """
    try:
        with atomic_file(path) as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
    except (OSError, RuntimeError) as error:  # torch wraps what the file raises
        raise OSError(f"the checkpoint {path} cannot be written: {error}; is the disk full?") from error


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU, unpickling nothing but tensors and plain containers.

    Raises:
        FastvitError: The file is damaged or not ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FastvitError(f"cannot read checkpoint {path}: {reason}; remove it, or name another --out") from error
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise FastvitError(f"{path} is not a checkpoint of this version of fastvit; remove it, or name another --out")
    return state


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
