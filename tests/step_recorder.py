"""A stand-in for CUDA graphs on the CPU: it records the operations of a step, and replays them on the same tensors.

What a replay does not see, as with a graph: numbers that Python computed, tensors that were made outside and replaced
since, and whatever the host would have done. A recording runs nothing, as far as anyone can tell afterwards.
What it cannot show: memory that a graph uses twice, streams, kernels that may not be captured, and the counting of
CUDA's random numbers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What waits for the device, or makes a tensor whose size depends on what is on it.
_FORBIDDEN = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "_unique2", "equal"}


class RecordedStep(TorchDispatchMode):
    """The operations of a step."""

    def __init__(self, generator: torch.Generator, count: Callable[[], None]) -> None:
        super().__init__()
        self._count = count
        self.result = torch.empty(0)
        self._generator = generator
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._own: set[int] = set()
        self._before: list[tuple[Tensor, Tensor]] = []
        """Tensors from outside that the step writes to, each with what it held."""

    def record(self, step: Callable[[], Tensor]) -> None:
        states = torch.get_rng_state(), self._generator.get_state()
        with self:
            self.result = step()
        for tensor, held in reversed(self._before):
            self._below_autograd(tensor.copy_, held)
        torch.set_rng_state(states[0])
        self._generator.set_state(states[1])

    def replay(self) -> None:
        self._count()
        for func, args, kwargs, results in self._calls:
            again = self._below_autograd(func, *args, **kwargs)
            for old, new in zip(_tensors(results), _tensors(again), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    self._below_autograd(old.copy_, new)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in _FORBIDDEN, f"{name} has no place in a CUDA graph"
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(value)
        for argument in func._schema.arguments:
            if argument.name in kwargs and argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(kwargs[argument.name])
        if name == "native_batch_norm":  # its schema keeps quiet about the running statistics
            self._keep(args[3:5])
        results = func(*args, **kwargs)
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        self._own |= {tensor.untyped_storage().data_ptr() for tensor in _tensors(results)} - given
        self._calls.append((func, args, kwargs, results))
        return results

    def _keep(self, value: Any) -> None:
        for tensor in _tensors(value):
            place = tensor.untyped_storage().data_ptr()
            if place not in self._own:
                self._before.append((tensor.detach(), tensor.detach().clone()))

    @staticmethod
    def _below_autograd(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return function(*args, **kwargs)


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


class StepRecorder:
    """In place of `CudaRecorder`."""

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        assert device.type == "cpu"
        self._generator = generator
        self.num_warm_ups = 0
        self.num_recordings = 0
        self.num_replays = 0
        self.num_waits = 0

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        self.num_warm_ups += 1
        return step()

    def record(self, step: Callable[[], Tensor]) -> RecordedStep:
        self.num_recordings += 1
        recorded = RecordedStep(self._generator, self._count)
        recorded.record(step)
        return recorded

    def wait(self) -> None:
        self.num_waits += 1

    def _count(self) -> None:
        self.num_replays += 1
