"""Unexpected errors keep their traceback and say where the run was; those for want of memory say what needs less."""

import traceback
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backends import of_backend
from fastvit_train.distributed import World
from fastvit_train.failure import explain_errors
from fastvit_train.train import train, train_step
from loaders import BadSampleError
from loaders.errors import FastvitError


def fail_at(step, error, monkeypatch):
    def failing(run, *args):
        train_step(run, *args)
        if run.progress.step == step:
            raise error

    monkeypatch.setattr("fastvit_train.train.train_step", failing)


def test_an_unexpected_error_says_where_the_run_was(config, monkeypatch):
    fail_at(5, KeyError("of ours"), monkeypatch)
    with pytest.raises(KeyError, match="of ours") as error:
        train(config)
    shown = "".join(traceback.format_exception(error.value))
    assert "in failing" in shown
    assert shown.endswith(f"fastvit was at step 5 of the run in {config.out}\n")


def test_an_error_before_the_first_step(config, monkeypatch):
    monkeypatch.setattr("fastvit_train.train.start_run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) as error:
        train(config)
    assert error.value.__notes__ == [f"fastvit was before the first step of the run in {config.out}"]


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "torch", "resident"])
def test_a_bad_sample_says_which_option_leaves_it_out(config, encode_jpeg, tmp_path, backend):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for name in "abcde":
        image = b"none" if name == "e" else encode_jpeg(np.zeros((32, 32, 3), np.uint8))
        (tmp_path / "images" / "cat" / f"{name}.jpg").write_bytes(image)
    data = replace(config.data, train=tmp_path / "images", val=tmp_path / "images", backend=backend)
    with pytest.raises(BadSampleError, match="; fix it, or leave such samples out with --data.on-error skip$"):
        train(replace(config, data=data, batch_size=5))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_says_what_needs_less(config, monkeypatch, error):
    fail_at(5, error, monkeypatch)
    with pytest.raises(FastvitError) as refusal:
        train(replace(config, accumulate=2))
    message = str(refusal.value)
    assert message.startswith(f"out of memory at step 5 of the run in {config.out}: ")
    for way in (
        "--accumulate 4 (now 2)",
        "--data.backend native (now resident)",
        "--model.bf16-residual (now off)",
        "--batch-size below 32",
        "--data.resolution below 32",
        "--arch smaller than timm/test_vit",
        "--parallel fsdp (now ddp)",
    ):
        assert way in message
    assert "\n" not in message
    assert refusal.value.__cause__ is error


def test_a_graph_can_be_left_out(config, monkeypatch):
    def failing(run, *_):
        run.step_graph = "a graph"
        raise MemoryError

    monkeypatch.setattr("fastvit_train.train.train_step", failing)
    with pytest.raises(FastvitError, match=r"; --cuda-graph off \(now on\), which lets the evaluation have"):
        train(config)


@pytest.mark.parametrize("backend", ["dali", "nvjpeg"])
def test_what_decodes_on_the_gpu_may_do_so_elsewhere(config, backend):
    data = replace(config.data, backend=backend)
    run = SimpleNamespace(
        world=World(rank=0, world_size=1, device=torch.device("cuda")),
        num_parts=1,
        step_graph=None,
        progress=SimpleNamespace(step=3),
    )

    def fail() -> None:
        with explain_errors(replace(config, data=data), config.out) as place:
            place.run = run
            raise MemoryError

    with pytest.raises(FastvitError, match=rf"; --data.backend native \(now {backend}\), which decodes on the CPU"):
        fail()


def test_what_is_used_already_is_not_recommended(config):
    config = replace(config, precision="fp32", arch="resnet50", data=replace(config.data, backend="native"))
    with pytest.raises(FastvitError, match="before the first step") as refusal, explain_errors(config, config.out):
        raise MemoryError
    assert "--precision bf16 (now fp32)" in str(refusal.value)
    assert "--data.backend" not in str(refusal.value)
    assert "residual" not in str(refusal.value)
    assert "graph" not in str(refusal.value)


def test_a_message_for_users_stays_as_it_is(config):
    with pytest.raises(FastvitError, match=r"^as it was: out of memory$") as error, explain_errors(config, config.out):
        raise FastvitError("as it was: out of memory")
    assert not hasattr(error.value, "__notes__")
