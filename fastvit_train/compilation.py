"""What torch.compile makes code for: the model, in regions where it has equal blocks, and the augmentation.

Every shape gets code of its own: a run has few, and code for any size is slower. Code that torch made before is found
again in Inductor's cache on the disk, by what it computes: `TORCHINDUCTOR_CACHE_DIR`, or a folder under /tmp.
"""

import os
import shutil
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from fastvit_train.config import Config
from fastvit_train.models.vit_regions import compute_in_regions, has_regions
from fastvit_train.sharding import is_sharded, units

__all__ = ["can_compile", "compile_models", "compiles_augmentation", "has_cpp_compiler", "resolve_compile"]

_MOST_VERSIONS = 64
"""Of the code of one function: for each shape, in training and evaluation, and of a ResNet's blocks."""


def compile_models(config: Config, device: torch.device, *models: nn.Module) -> None:
    """Have torch.compile make each model's code when it is first called, if the config asks for it."""
    # With more versions torch would compute without compiling, which nobody would see but by the speed.
    torch._dynamo.config.recompile_limit = _MOST_VERSIONS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    mode = resolve_compile(config, device)
    if mode is None:
        return
    for model in models:
        if is_sharded(model):  # what gathers the shares is not for torch.compile: there it has each block
            for unit in units(model):
                unit.compile(mode=mode, dynamic=False)
        elif has_regions(model) and mode not in ("reduce-overhead", "max-autotune"):  # these want one CUDA graph
            compute_in_regions(model, partial(torch.compile, mode=mode, dynamic=False))
        else:
            model.compile(mode=mode, dynamic=False)


def resolve_compile(config: Config, device: torch.device) -> str | None:
    """The torch.compile mode, or None."""
    if config.compile == "auto":
        return "default" if device.type == "cuda" else None
    return None if config.compile == "off" else config.compile


def compiles_augmentation(config: Config, device: torch.device) -> bool:
    """Whether the augmentation is compiled: auto does so on cuda, and on the CPU where it gains something.

    On the CPU torch needs a C++ compiler for that, which a machine that a wheel was installed on need not have.
    """
    if config.compile == "auto":
        return device.type == "cuda" or (not config.augment.is_plain and has_cpp_compiler())
    return config.compile != "off"


def has_cpp_compiler() -> bool:
    """Whether the compiler that torch.compile calls for the CPU is there."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def can_compile(device: torch.device) -> bool:
    """Whether what torch.compile calls is there: a C++ compiler, or for a GPU Triton, which calls a C compiler."""
    if device.type == "cpu":
        return has_cpp_compiler()
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return find_spec("triton") is not None and any(map(shutil.which, compilers))
