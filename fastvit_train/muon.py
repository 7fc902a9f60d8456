"""Muon for every matrix of a network, those of convolutions included."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Muon
from torch.overrides import TorchFunctionMode

from fastvit_train.config import MuonConfig
from fastvit_train.device import has_bf16_matmul

__all__ = ["FlatMuon"]


class FlatMuon(Muon):
    """torch's Muon, which takes 2-D parameters in bf16 alone, also for the filters of convolutions, and in float32 too.

    Filters [out, in, h, w] are trained as the matrix [out, in * h * w] that shares their memory; the order of its
    columns, which follows the memory, changes nothing about an orthogonal update. Source: airbench94_muon of
    KellerJordan/cifar10-airbench, for flattening and for `normalize`. A device without bf16 matmul iterates in
    float32: on two AVX2 cores bf16 took 45 times as long.

    Args:
        groups: Parameter groups of 2-D and 4-D weights, contiguous or channels_last, with what torch's Muon wants of
            a group. The weights must stay where they are.
        config: What all groups share.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], config: MuonConfig) -> None:
        self._normalize = config.normalize
        self._in_bf16 = has_bf16_matmul(groups[0]["params"][0].device)
        self._flattened: list[tuple[nn.Parameter, nn.Parameter]] = []
        super().__init__(
            [{**group, "params": [self._flatten(weight) for weight in group["params"]]} for group in groups],
            momentum=config.momentum,
            ns_steps=config.num_iterations,
        )

    def _flatten(self, weight: nn.Parameter) -> nn.Parameter:
        if weight.ndim == 2:
            return weight
        matrix = nn.Parameter(_as_matrix(weight.detach(), like=weight))
        self._flattened.append((weight, matrix))
        return matrix

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        """Update every weight that has a gradient."""
        for weight, matrix in self._flattened:
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad, like=weight)
        if self._normalize:
            for group in self.param_groups:
                for matrix in group["params"]:
                    matrix.mul_(len(matrix) ** 0.5 / matrix.norm())
        with _RatesOnDevice(), nullcontext() if self._in_bf16 else _InFloat32():
            super().step()  # type: ignore[no-untyped-call]
        for _, matrix in self._flattened:
            matrix.grad = None  # a view: it would keep the memory of the gradient until the next step


class _InFloat32(TorchFunctionMode):
    """Has `Tensor.bfloat16`, with which torch's Muon begins its iterations, leave the type as it is.

    How torch's Muon begins is its own affair: checked with torch 2.11.0 and 2.14.1. `test_muon.py` notices a change.
    """

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - as torch has it
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch has it
        return args[0].clone() if func is Tensor.bfloat16 else func(*args, **(kwargs or {}))


class _RatesOnDevice(TorchFunctionMode):
    """Has torch's Muon add updates without reading the learning rate on the host, which waits for the device."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - as torch has it
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch has it
        if func is Tensor.add_ and kwargs and isinstance(kwargs.get("alpha"), Tensor):
            weight, update = args
            return weight.add_(update.to(weight.dtype) * kwargs["alpha"])
        return func(*args, **(kwargs or {}))


def _as_matrix(filters: Tensor, *, like: Tensor) -> Tensor:
    """[out, in, h, w] as [out, in * h * w], its columns in the order of the memory of `like`."""
    return (filters if like.is_contiguous() else filters.permute(0, 2, 3, 1)).flatten(1)
