"""Ranks of one world as processes of their own, and what tests have them do: a module that they can import."""

import io
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastvit_train.config import Config
from fastvit_train.distributed import start_world
from fastvit_train.presets import PRESETS
from fastvit_train.train import train
from loaders.errors import FastvitError


def on_ranks(work: Callable[[int], Any], world_size: int) -> list[Any]:
    """What `work` returns on each of the ranks of one world, by rank; from a server that has imported the trainer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")  # a plain fork of a process that has trained cannot train
    context.set_forkserver_preload(["fastvit_train.train"])
    results = context.Queue()
    ranks = [context.Process(target=_work, args=(work, rank, world_size, port, results)) for rank in range(world_size)]
    try:
        for process in ranks:
            process.start()
        outcomes = dict(results.get(timeout=100) for _ in ranks)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    for rank, (ok, value) in sorted(outcomes.items()):
        assert ok, f"rank {rank}: {value}"
    return [outcomes[rank][1] for rank in range(world_size)]


def _work(
    work: Callable[[int], Any], rank: int, world_size: int, port: int, results: "multiprocessing.Queue[Any]"
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        results.put((rank, (True, work(rank))))
    except BaseException:
        results.put((rank, (False, traceback.format_exc())))


def ask_main(rank: int) -> tuple:
    """What rank 0 decides, and what it refuses."""
    mine = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    state = {"w": mine, "more": [(torch.tensor(3), torch.zeros(0), torch.ones(2, dtype=torch.bfloat16))], "step": 7}

    def refuse():
        raise FastvitError("no")

    with start_world("cpu") as world:
        got = world.from_main(lambda: state if rank == 0 else None)
        try:
            world.from_main(refuse if rank == 0 else lambda: None)
        except FastvitError as error:
            refusal = str(error)
        last = world.from_main(lambda: rank)
    same = torch.equal(got["w"], mine) and got["w"].stride() == mine.stride()
    others = [(tensor.dtype, tensor.tolist()) for tensor in got["more"][0]]
    return same, others, got["step"], refusal, last


def resume_in_folder_of_rank(config: Config, folders: Path, rank: int) -> str:
    os.chdir(folders / str(rank))
    with redirect_stdout(io.StringIO()) as out:
        train(config)
    return out.getvalue()


def distill_in_folder_of_rank(config: Config, recipe: Config, folders: Path, rank: int) -> dict[str, Any]:
    PRESETS[str(config.distill.preset)] = lambda epochs=None: replace(recipe, epochs=epochs or recipe.epochs)
    os.chdir(folders / str(rank))
    return train(config)
