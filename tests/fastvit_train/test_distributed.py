"""Any number of ranks makes the steps of one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import eager
from torch.futures import Future

from fastvit_train import checkpoint
from fastvit_train.augment import Augmented, Rows
from fastvit_train.config import AugmentConfig, Config, OptimConfig
from fastvit_train.data import build_loaders
from fastvit_train.distributed import World, start_world
from fastvit_train.evaluate import Evaluation
from fastvit_train.metrics import Totals, read_metrics
from fastvit_train.run import start_run
from fastvit_train.train import train, train_step
from rank_processes import ask_main, on_ranks
from runs import same, save_config, weights

CPU = torch.device("cpu")
RANK = str(Path(__file__).parents[1] / "rank.py")


def torchrun(config: Config, num_ranks: int, *left_out: int) -> list[dict[str, Any]]:
    """Train on so many ranks; returns what `rank.py` noted on each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    script = [RANK, save_config(config), *map(str, left_out)]
    done = subprocess.run([*launcher, *script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads((config.out / f"rank-{rank}.json").read_text()) for rank in range(num_ranks)]


def alone(config: Config, *left_out: int) -> dict[str, Any]:
    """The same in one process."""
    done = subprocess.run(
        [sys.executable, RANK, save_config(config), *map(str, left_out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads((config.out / "rank-0.json").read_text())
    return seen


def largest_difference(mine: Path, other: Path) -> float:
    """Of two runs' weights, relative to the largest weight of each tensor."""
    ours, theirs = weights(mine), weights(other)
    return max(
        float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max().clamp(min=1e-12))
        for name in ours
        if ours[name].is_floating_point()
    )


def test_two_ranks_train_alike_and_evaluate_every_image_once(config):
    """torchrun with two processes: the gradients are averaged and the 50 images counted once."""
    config = replace(config, batch_size=32, accumulate=2, augment=AugmentConfig(), precision="fp32")
    torchrun(config, 2)
    alone = replace(config, accumulate=1, out=config.out.with_name("alone"))
    train(alone)
    mine, other = weights(config.out), weights(alone.out)
    for name in mine:
        assert torch.allclose(mine[name], other[name], atol=2e-3), name
    evaluations = [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
    assert [line["num_images"] for line in evaluations] == [50, 50, 50]
    assert json.loads((config.out / "result.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_two_ranks_evaluate_on_classes_in_another_order(other_order):
    torchrun(replace(other_order, precision="fp32", augment=AugmentConfig()), 2)
    last = [line for line in read_metrics(other_order.out / "metrics.jsonl") if line["kind"] == "eval"][-1]
    assert last["num_images"] == 50
    assert last["top1"] > 0.9, "the colours of these images tell their class"


def test_what_the_main_rank_decides_holds_on_every_rank():
    others = [(torch.int64, 3), (torch.float32, []), (torch.bfloat16, [1.0, 1.0])]
    assert on_ranks(ask_main, 3) == [(True, others, 7, "no", 0)] * 3


@pytest.fixture
def exact(config) -> Config:
    """A run in which ranks differ by rounding alone: SGD does not blow it up, and nothing is drawn by each rank."""
    augment = AugmentConfig(flip="random", shift=2, color_jitter=0.3, erasing_probability=0.25)
    optim = OptimConfig(name="sgd", lr=0.05, clip_norm=1.0)
    return replace(config, precision="fp32", augment=augment, optim=optim, ema_half_life_epochs=0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_two_and_four_ranks_train_alike(exact):
    """The same samples in every step, augmented alike, and the same weights up to rounding."""
    reference = alone(exact)["steps"]
    assert len(reference) == 12
    for num_ranks in (2, 4):
        config = replace(exact, out=exact.out.with_name(f"ranks{num_ranks}"))
        ranks = torchrun(config, num_ranks)
        steps = zip(*(rank["steps"] for rank in ranks), strict=True)
        assert [[sample for part in parts for sample in part] for parts in steps] == reference
        assert largest_difference(exact.out, config.out) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_without_images_keeps_pace(exact):
    """Samples left out of either rank, all of one batch among them: each image that is left counts the same."""
    data = replace(exact.data, order="sequential", on_error="skip")
    config = replace(exact, data=data, augment=AugmentConfig(), accumulate=2)
    left_out = [*range(16, 32), 33, 70, 71, 80, *range(97, 112)]  # 16 to 31 are the second rank's in the first step
    alone(config, *left_out)
    ranks = torchrun(replace(config, out=config.out.with_name("ranks")), 2, *left_out)
    assert [len(samples) for samples in ranks[1]["steps"][:4]] == [0, 16, 15, 16]
    assert [len(samples) for samples in ranks[0]["steps"][:4]] == [16, 15, 14, 1]
    assert largest_difference(config.out, config.out.with_name("ranks")) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_batch_statistics_agree_at_evaluation(exact):
    """Of the moving average of the weights, with a rank that has no images in the first step."""
    data = replace(exact.data, order="sequential", on_error="skip")
    config = replace(exact, arch="timm/test_resnet", data=data)
    first, second = torchrun(config, 2, *range(16, 32))
    assert len(first["means"]) == 3
    assert all(means for means in first["means"])
    assert first["means"] == second["means"]
    saved = checkpoint.load(config.out / "checkpoint.pt")["ema"]
    means = [tensor.tolist() for name, tensor in saved.items() if name.endswith("running_mean")]
    assert [number for of_norm in means for number in of_norm] == first["means"][-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_shares_of_the_weights_train_alike_and_resume_on_any_number_of_ranks(exact):
    """FSDP2: three steps with shares on two ranks, six without on one, and the rest with shares again."""
    exact = replace(exact, accumulate=2)
    alone(exact)
    config = replace(exact, out=exact.out.with_name("resumed"), resume="auto")
    torchrun(replace(config, parallel="fsdp", max_steps=3), 2)
    alone(replace(config, max_steps=9))
    torchrun(replace(config, parallel="fsdp"), 2)
    assert largest_difference(exact.out, config.out) < 1e-5
    lines = [line for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "eval"]
    assert [line["num_images"] for line in lines][-1] == 50


def test_ranks_have_the_same_weights_and_draw_differently(config, group):
    config = replace(config, accumulate=1)  # else they would ask each other
    drawn, started, second = [], [], config.out.with_name("second")
    loader, *_ = build_loaders(config, World(rank=0, world_size=1, device=CPU))
    for rank in range(2):
        world = World(rank=rank, world_size=2, device=CPU)
        folder = second if rank else config.out
        started.append(start_run(config, world, folder, loader, num_classes=4).model.state_dict())
        drawn.append(torch.rand(8))
    assert same(*started)
    assert not second.exists(), "only the first rank writes"
    assert not torch.equal(*drawn)


def test_a_rank_augments_its_rows_of_the_batch(config, group, monkeypatch):
    config, seen = replace(config, accumulate=1), []

    def augmented(images, labels, _, *, rows, generator, **__):
        seen.append((rows, generator.initial_seed()))
        return Augmented(images.float(), labels, labels)

    monkeypatch.setattr("fastvit_train.train.augment", augmented)
    loader, *_ = build_loaders(config, World(rank=0, world_size=1, device=CPU))
    for rank in range(2):
        world = World(rank=rank, world_size=2, device=CPU)
        run = start_run(config, world, config.out, loader, num_classes=4)
        train_step(run, torch.zeros(16, 3, 32, 32), torch.zeros(16).long(), torch.arange(16), Totals(CPU))
    (first, seed), (second, other_seed) = seen
    assert (first, second) == (Rows(0, 0, 32), Rows(1, 16, 32))
    assert seed == other_seed


def test_statistics_are_averaged_before_they_are_used_or_kept(config, monkeypatch):
    """Those of the model and of the moving average of its weights."""
    events = []
    monkeypatch.setattr("fastvit_train.run.average_statistics", lambda *_: events.append("averaged"))
    monkeypatch.setattr("fastvit_train.run.checkpoint.save", lambda *_, **__: events.append("saved"))

    def evaluated(*_, **__):
        events.append("evaluated")
        return Evaluation(0.5, None, 1.0, 50)

    monkeypatch.setattr("fastvit_train.train.evaluate", evaluated)
    monkeypatch.setattr("fastvit_train.train.save_best", lambda _: None)
    train(replace(config, epochs=1, ema_half_life_epochs=1))
    assert events == ["averaged", "averaged", "evaluated", "averaged", "averaged", "saved"]


class Layers(nn.Sequential):
    """Four layers of 16 MiB: more than a bucket."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(2048, 2048, bias=False) for _ in range(4)))


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_averaged_while_the_backward_pass_goes_on(group, compiled):
    """Also where the model was compiled before it was wrapped, as runs do it: several graphs, not one."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return eager(graph, inputs)

    model = Layers()
    if compiled:
        model.compile(backend=backend)
    parallel = World(rank=0, world_size=2, device=CPU).wrap(model)
    events = []

    def averaged(_, bucket):
        events.append("averaged")
        future = Future()
        future.set_result(bucket.buffer())
        return future

    parallel.register_comm_hook(None, averaged)
    model[0].weight.register_post_accumulate_grad_hook(lambda _: events.append("last gradient"))
    for _ in range(2):  # the first pass tells the order of the buckets
        events.clear()
        parallel(torch.randn(4, 2048)).sum().backward()
    assert events.index("last gradient") > 0, "the first bucket was on its way by then"
    assert not compiled or len(graphs) > 1
    torch._dynamo.reset()


def test_the_ranks_keep_their_own_buffers(group):
    """They would get rank 0's before every step otherwise; gradients lie in the memory that is sent."""
    parallel = World(rank=0, world_size=2, device=CPU).wrap(nn.BatchNorm1d(4))
    assert not parallel.will_sync_module_buffers()
    assert parallel.gradient_as_bucket_view


def test_ranks_that_torchrun_did_not_start_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    message = "WORLD_SIZE is set to 2, but not MASTER_ADDR, MASTER_PORT; start the ranks with torchrun"
    with pytest.raises(ValueError, match=message), start_world("cpu"):
        pass
