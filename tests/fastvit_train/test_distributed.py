"""Two ranks make the steps of one."""

import json
import subprocess
import sys
from dataclasses import replace

import torch

from fastvit_train.config import AugmentConfig
from fastvit_train.distributed import start_world
from fastvit_train.metrics import read_metrics
from fastvit_train.train import train
from loaders.errors import FastvitError
from runs import on_ranks, save_config, weights


def test_two_ranks_train_alike_and_evaluate_every_image_once(config):
    """torchrun with two processes: the gradients are averaged and the 50 images counted once."""
    config = replace(config, batch_size=32, accumulate=2, augment=AugmentConfig(), precision="fp32")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = ["-m", "fastvit_train.cli", "--config", save_config(config)]
    done = subprocess.run([*torchrun, *script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = replace(config, accumulate=1, out=config.out.with_name("alone"))
    train(alone)
    mine, other = weights(config.out), weights(alone.out)
    for name in mine:
        assert torch.allclose(mine[name], other[name], atol=2e-3), name
    evaluations = [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
    assert [line["num_images"] for line in evaluations] == [50, 50, 50]
    assert json.loads((config.out / "result.json").read_text())["world_size"] == 2


def _ask_main(rank: int) -> tuple:
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


def test_what_the_main_rank_decides_holds_on_every_rank():
    others = [(torch.int64, 3), (torch.float32, []), (torch.bfloat16, [1.0, 1.0])]
    assert on_ranks(_ask_main, 3) == [(True, others, 7, "no", 0)] * 3
