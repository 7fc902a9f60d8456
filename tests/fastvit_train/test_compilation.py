"""What torch.compile is asked for: the regions of a ViT, any other model whole, or nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fastvit_train.compilation import can_compile, compile_models, compiles_augmentation, resolve_compile
from fastvit_train.config import AugmentConfig, Config
from fastvit_train.models import build_model
from runs import TINY

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def asked(monkeypatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What torch.compile was called with."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        calls.append((function.__name__, options))
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield calls


def models() -> dict[str, nn.Module]:
    return {name: build_model(name, num_classes=4, resolution=32) for name in (TINY, "resnet_fast_cifar")}


@pytest.mark.parametrize(
    ("mode", "device", "vit", "resnet"),
    [
        ("off", CUDA, [], []),
        ("auto", CPU, [], []),
        ("auto", CUDA, ["_embed", "_begin", "_proceed", "_finish"], ["_call_impl"]),
        ("max-autotune-no-cudagraphs", CPU, ["_embed", "_begin", "_proceed", "_finish"], ["_call_impl"]),
        ("reduce-overhead", CUDA, ["_call_impl"], ["_call_impl"]),
    ],
)
def test_vits_are_compiled_in_regions_unless_they_become_one_cuda_graph(asked, mode, device, vit, resnet):
    for model, expected in zip(models().values(), (vit, resnet), strict=True):
        asked.clear()
        compile_models(Config(compile=mode), device, model)
        assert [name for name, _ in asked] == expected
        wanted = {"mode": "default" if mode == "auto" else mode, "dynamic": False}
        assert all(options == wanted for _, options in asked)


def test_too_many_versions_of_code_end_the_run(asked):
    """Otherwise torch goes on uncompiled, without a word."""
    compile_models(Config(), CPU)
    with torch._dynamo.config.patch(recompile_limit=1):
        code = torch._dynamo.optimize("eager", dynamic=False)(lambda values: values + 1)
        code(torch.zeros(2))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            code(torch.zeros(3))


@pytest.mark.parametrize("compiler", ["true", "no-such-compiler"])
def test_the_augmentation_is_compiled_where_it_gains(monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    plain, strong = Config(), Config(augment=AugmentConfig(policy="trivial"))
    assert compiles_augmentation(plain, CUDA)
    assert not compiles_augmentation(plain, CPU)
    assert compiles_augmentation(strong, CPU) == (compiler == "true")
    assert resolve_compile(strong, CPU) is None


@pytest.mark.parametrize(
    ("programs", "has_triton", "variables", "on_cpu", "on_cuda"),
    [
        ({"g++", "gcc"}, True, {}, True, True),
        ({"clang"}, True, {}, False, True),
        ({"g++", "gcc"}, False, {}, True, False),
        ({"mycc"}, True, {"CC": "mycc", "CXX": "mycc"}, True, True),
        ({"gcc", "g++"}, True, {"CC": "mycc", "CXX": "mycc"}, False, False),
        (set(), True, {}, False, False),
    ],
)
def test_what_torch_compile_calls_must_be_there(monkeypatch, programs, has_triton, variables, on_cpu, on_cuda):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda name: name if name in programs else None)
    monkeypatch.setattr("fastvit_train.compilation.find_spec", lambda name: has_triton or None)
    assert (can_compile(CPU), can_compile(CUDA)) == (on_cpu, on_cuda)
