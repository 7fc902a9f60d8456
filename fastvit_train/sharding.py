"""Fully sharded training (torch's FSDP2): every rank keeps a share of each weight, gradient and optimizer state.

A block's weights are gathered just before they are needed, forward and backward, and let go after it. What is saved is
gathered to whole tensors, so that a checkpoint does not tell how many ranks wrote it, or whether they had shares.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fastvit_train.batch_norm import has_batch_norm
from fastvit_train.config import Config
from fastvit_train.distributed import World
from loaders.errors import FastvitError

__all__ = [
    "check_sharding",
    "gathered",
    "is_sharded",
    "model_shares",
    "optimizer_shares",
    "shard",
    "units",
    "without_averaging",
]


def check_sharding(config: Config, model: nn.Module, dtype: torch.dtype, world: World) -> None:
    """Refuse what does not go together with `parallel fsdp`.

    Raises:
        FastvitError: With what does not, and what to do instead.
    """
    reasons = {
        "there is one process: start several with torchrun, or leave it out": world.world_size == 1,
        "the model has batch normalisation, which needs float32 weights: use --parallel ddp": has_batch_norm(model),
        "optim.name is muon, which needs whole matrices: use adamw, sgd or lamb": config.optim.name == "muon",
        "the run computes in float16, whose loss scale it does not have: use bf16 or fp32": dtype == torch.float16,
        "precision is fp8, which is for whole weights: use bf16 or fp32": config.precision == "fp8",
        f"compile is {config.compile}, whose CUDA graphs need weights that stay where they are: use default": (
            config.compile in ("reduce-overhead", "max-autotune")
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise FastvitError(f"parallel is fsdp, but {reason}")


def units(model: nn.Module) -> list[nn.Module]:
    """The parts whose weights are gathered at once: the members of the model's lists, such as the blocks of a ViT."""
    lists = [child for child in model.children() if isinstance(child, nn.Sequential | nn.ModuleList)]
    return [unit for members in lists for unit in members if any(True for _ in unit.parameters())]


def shard(model: nn.Module, *, dtype: torch.dtype, world: World) -> None:
    """Leave this rank its share of rank 0's weights; they are gathered in `dtype`, gradients are averaged in float32.

    Args:
        model: With whole weights, on its device; changed in place.
        dtype: What the run computes in.
        world: The ranks that share it.
    """
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    model.to(memory_format=torch.contiguous_format)  # shares have to be
    # Autocast decides what is computed in which type, as it does without shares.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(world.device.type, (world.world_size,))
    for unit in units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called: then all ranks have to call the model equally often."""
    return isinstance(model, FSDPModule)


def without_averaging(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which the gradients of a parallel model add up on each rank; the next pass outside averages them."""
    if isinstance(model, FSDPModule):
        return _whole_gradients(model)
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def _whole_gradients(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def gathered(state: Any) -> Any:  # noqa: ANN401 - dicts and lists of anything
    """The state with whole tensors on the CPU in place of shares; all ranks have to call it alike."""
    match state:
        case DTensor():
            return state.full_tensor().cpu()
        case dict():
            return {name: gathered(value) for name, value in state.items()}
        case list():
            return [gathered(value) for value in state]
    return state


def model_shares(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A whole state dict of the model, with this rank's shares of what the model has shares of."""
    own = model.state_dict()
    return {name: _like(value, own.get(name)) for name, value in state.items()}


def optimizer_shares(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A whole state dict of the optimizer, with this rank's shares where its parameters are shares.

    The rest takes the memory layout of its parameter, which fused optimizers rely on and whole tensors of shares have
    lost.
    """
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    values = {
        number: {name: _like(value, parameters.get(number)) for name, value in of_parameter.items()}
        for number, of_parameter in state["state"].items()
    }
    return {**state, "state": values}


def _like(value: Any, own: Tensor | None) -> Any:  # noqa: ANN401 - optimizers keep numbers too
    """`value` in shares or in the layout of `own`, where it is a tensor of its shape."""
    if own is None or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    if isinstance(own, DTensor):
        return distribute_tensor(value.contiguous(), own.device_mesh, own.placements, src_data_rank=None)
    return torch.empty_like(own, dtype=value.dtype, device=value.device, requires_grad=False).copy_(value)
