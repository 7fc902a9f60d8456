"""The matmuls and convolutions of a piece of work, recorded and done again on their own: its ceiling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The two have no public path: checked with torch 2.11.0 and 2.14.1.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

__all__ = ["record_matmuls"]

_MATMULS = {
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
    torch.ops.aten.convolution,
    torch.ops.aten.convolution_backward,
}


class _Operand(NamedTuple):
    """What a tensor looked like, without its values."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Such a tensor, of random numbers."""
        last = sum((length - 1) * step for length, step in zip(self.size, self.stride, strict=True))
        memory = torch.randn(last + 1, device=self.device).to(self.dtype)
        return memory.as_strided(self.size, self.stride)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - as torch has it
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch has it
        kwargs = kwargs or {}
        if func.overloadpacket in _MATMULS:
            self.calls.append((func, *tree_map_only(Tensor, _describe, (args, kwargs))))
        return func(*args, **kwargs)


def _describe(tensor: Tensor) -> _Operand:
    return _Operand(tuple(tensor.size()), tensor.stride(), tensor.dtype, tensor.device)


def record_matmuls(work: Callable[[], object]) -> Callable[[], None]:
    """Do the work once, and return a function that does its matmuls and convolutions again, in their order.

    They have operands of the same shapes, strides and types, but random values; operands that look the same share
    their memory, which makes them, if anything, faster than they are in the work.
    """
    with _Recorder() as recorder:
        work()
    made: dict[_Operand, Tensor] = {}

    def fill(value: Any) -> Any:  # noqa: ANN401 - whatever an operation takes
        if not isinstance(value, _Operand):
            return value
        if value not in made:
            made[value] = value.make()
        return made[value]

    calls = [
        (func, *tree_map(fill, (args, kwargs), is_leaf=lambda value: isinstance(value, _Operand)))
        for func, args, kwargs in recorder.calls
    ]

    def repeat() -> None:
        with torch.no_grad():
            for func, args, kwargs in calls:
                func(*args, **kwargs)

    return repeat
