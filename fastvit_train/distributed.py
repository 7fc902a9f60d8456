"""One process or many: what torchrun tells us, and sums over the ranks."""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from loaders.errors import FastvitError

__all__ = ["World", "device_kind", "start_world"]

_TORCHRUN_SETS = ("RANK", "MASTER_ADDR", "MASTER_PORT")
# torch 2.14 has a new name for it and warns of the old one.
_HAS_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _HAS_NEW_NAME else "broadcast_buffers": False}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Outline:
    """What a rank has to know of a tensor before it can receive it."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among the ranks."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the ranks, bucket by bucket while the backward pass goes on.

        A compiled model is split between the buckets, as torch compiles it in its first call from here (DDPOptimizer).
        The buffers stay as they are on each rank: `average_statistics` has those of batch normalisation agree.
        """
        if self.world_size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_KEEP_BUFFERS,
        )

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over the ranks; any shape, on this rank's device."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank; with several ranks it waits for the device."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - anything that pickles
        """Every rank's `value`, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, decide: Callable[[], T]) -> T:
        """What `decide` returns on rank 0, which alone calls it, on every rank.

        Raises:
            FastvitError: `decide` raised it: every rank gets it, and none waits for the others.
        """
        if self.world_size == 1:
            return decide()
        outcome: T | FastvitError | None = None
        if self.is_main:
            try:
                outcome = decide()
            except FastvitError as error:
                outcome = error
        outcome = self._broadcast(outcome)
        if isinstance(outcome, FastvitError):
            raise outcome
        return cast("T", outcome)

    def _broadcast(self, value: Any) -> Any:  # noqa: ANN401 - anything that pickles
        """Rank 0's `value` on every rank; the tensors in it, on the CPU, are sent one by one: a device has room."""
        outlined = [_replaced(value, Tensor, lambda tensor: _Outline(tensor.shape, tensor.stride(), tensor.dtype))]
        dist.broadcast_object_list(outlined, src=0, device=self.device)
        return _replaced(value, Tensor, self._send) if self.is_main else _replaced(outlined[0], _Outline, self._receive)

    def _send(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor.to(self.device).contiguous(), src=0)
        return tensor

    def _receive(self, outline: _Outline) -> Tensor:
        received = torch.empty(outline.shape, dtype=outline.dtype, device=self.device)
        dist.broadcast(received, src=0)
        return torch.empty_strided(outline.shape, outline.stride, dtype=outline.dtype).copy_(received)


def _replaced(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - nested containers
    """`value` with every instance of `kind` in its dicts, lists and tuples replaced by what `function` makes of it."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: _replaced(item, kind, function) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, kind, function) for item in value)
    return value


def _own_store(world_size: int, *, timeout: timedelta) -> dict[str, Any]:
    """Where the ranks find each other, as `init_process_group` takes it: after a restart, at another place than before.

    torchrun keeps its store over restarts, with the addresses that the ranks had (torch 2.14.1): a new rank that reads
    one waits for a process that is gone. With several machines, whose counts of restarts differ, this is torch's to do.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ["LOCAL_WORLD_SIZE"] != str(world_size):
        return {}
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(  # type: ignore[attr-defined]  # documented, but not in torch's list of names
        host, port, world_size=world_size, is_master=False, timeout=timeout
    )
    prefix = f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return {
        "store": dist.PrefixStore(prefix, store),  # type: ignore[attr-defined]
        "rank": int(os.environ["RANK"]),
        "world_size": world_size,
    }


def device_kind(device: str) -> str:
    """The kind of device that an option asks for: `cuda` or `cpu`.

    Args:
        device: `cuda`, `cpu`, or `auto`: cuda where there is one.

    Raises:
        FastvitError: The device is unknown or not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cuda", "cpu"):
        raise FastvitError(f"device must be auto, cuda or cpu, got {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise FastvitError(
            "device is cuda, but torch sees no CUDA device; use --device cpu, or install torch for your CUDA"
        )
    return device


@contextmanager
def start_world(device: str, *, timeout_seconds: float = 1800.0) -> Iterator[World]:
    """Join the ranks that torchrun started, or be the only one.

    Args:
        device: See `device_kind`.
        timeout_seconds: How long a rank waits for the others before it ends the run.

    Raises:
        FastvitError: The device is unknown or not there, or torchrun has not said all that a rank has to know.
    """
    kind = device_kind(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = (*_TORCHRUN_SETS, "LOCAL_RANK") if kind == "cuda" else _TORCHRUN_SETS
    missing = [name for name in wanted if name not in os.environ]
    if world_size > 1 and missing:
        raise FastvitError(
            f"WORLD_SIZE is set to {world_size}, but not {', '.join(missing)}; start the ranks with torchrun, "
            "or unset WORLD_SIZE to train in one process"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch_device = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise FastvitError(
                f"this is process {local_rank + 1} of this machine, which has {torch.cuda.device_count()} CUDA "
                "device(s); start as many as there are devices (--nproc-per-node)"
            )
        torch.cuda.set_device(torch_device)
    if world_size == 1:
        yield World(rank=0, world_size=1, device=torch_device)
        return
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        device_id=torch_device if kind == "cuda" else None,
        **_own_store(world_size, timeout=timedelta(seconds=timeout_seconds)),
    )
    try:
        yield World(rank=dist.get_rank(), world_size=world_size, device=torch_device)
    finally:
        dist.destroy_process_group()
