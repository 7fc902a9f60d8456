"""Two ranks make the steps of one."""

import json
import subprocess
import sys
from dataclasses import replace

import torch

from fastvit_train.config import AugmentConfig
from fastvit_train.metrics import read_metrics
from fastvit_train.train import train
from runs import save_config, weights


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
