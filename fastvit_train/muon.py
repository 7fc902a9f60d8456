"""Muon for every matrix of a network, those of convolutions included, batched over matrices of one shape."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastvit_train.config import MuonConfig
from fastvit_train.device import has_bf16_matmul

__all__ = ["Muon"]

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_SMALLEST_NORM = 1e-7


class Muon(Optimizer):
    """Muon with the updates of torch's, for the filters of convolutions too, in far fewer and larger operations.

    torch.optim.Muon goes through the matrices one by one. Here all matrices of one shape iterate as one stack, together
    with those of the transposed shape, and whatever else there is to do is done to a list of matrices at once. Nothing
    waits for the device, so that a CUDA graph can capture any step but the first, which makes the momentum.

    Filters [out, in, h, w] are trained as the matrix [out, in * h * w] that shares their memory; the order of its
    columns, which follows the memory, changes nothing about an orthogonal update. A device without bf16 matmul iterates
    in float32: on two AVX2 cores bf16 took 45 times as long. Sources: torch.optim.Muon and KellerJordan/Muon for the
    rule; airbench94_muon of KellerJordan/cifar10-airbench for flattening and for `normalize`.

    Args:
        groups: Parameter groups of 2-D and 4-D weights, contiguous or channels_last, which must stay where they are.
            The `lr` of a group may be a number or a tensor without dimensions on the device of its weights.
        config: What all groups share; its `lr` and `weight_decay` are for groups without their own.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], config: MuonConfig) -> None:
        self._normalize = config.normalize
        self._dtype = torch.bfloat16 if has_bf16_matmul(groups[0]["params"][0].device) else torch.float32
        self._weights: dict[Tensor, nn.Parameter] = {}
        super().__init__(
            [{**group, "params": [self._matrix_of(weight) for weight in group["params"]]} for group in groups],
            # Under the names that torch's has for them.
            {
                "lr": config.lr,
                "weight_decay": config.weight_decay,
                "momentum": config.momentum,
                "ns_steps": config.num_iterations,
            },
        )

    def _matrix_of(self, weight: nn.Parameter) -> nn.Parameter:
        matrix = weight if weight.ndim == 2 else nn.Parameter(_as_matrix(weight.detach(), like=weight))
        self._weights[matrix] = weight
        return matrix

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if self._weights[matrix].grad is not None]
            if matrices:
                self._update(matrices, group)

    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        directions = self._directions(matrices, group["momentum"])
        changes = self._changes(directions, group["lr"], num_iterations=group["ns_steps"])
        if self._normalize:
            factors = torch._foreach_reciprocal(torch._foreach_norm(matrices))
            torch._foreach_mul_(factors, [len(matrix) ** 0.5 for matrix in matrices])
            torch._foreach_mul_(matrices, factors)
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, changes)

    def _directions(self, matrices: list[Tensor], momentum: float) -> list[Tensor]:
        """The gradients with Nesterov's momentum, which becomes one step older."""
        weights = [self._weights[matrix] for matrix in matrices]
        gradients = [_as_matrix(weight.grad, like=weight) for weight in weights if weight.grad is not None]
        for matrix in matrices:
            if matrix not in self.state:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, buffers, momentum))

    def _changes(self, directions: list[Tensor], lr: float | Tensor, *, num_iterations: int) -> list[Tensor]:
        """What to add to the matrices: the directions made orthogonal, times the rate."""
        changes = list(directions)
        # It has a dimension, so that bf16 times it is float32.
        rate = torch.full((1,), -1.0, dtype=torch.float32, device=directions[0].device) * lr
        for wide, tall in _stacks(directions):
            stack = torch.stack([*(directions[number] for number in wide), *(directions[number].mT for number in tall)])
            stack = _orthogonalize(stack.to(self._dtype), num_iterations)
            for numbers, part in ((wide, stack[: len(wide)]), (tall, stack[len(wide) :].mT)):
                if numbers:
                    ratio = max(1.0, part.shape[1] / part.shape[2]) ** 0.5
                    # Laid out as the matrices are, the changes of all are added in one launch.
                    scaled = (part * (rate * ratio)).contiguous()
                    for number, change in zip(numbers, scaled, strict=True):
                        changes[number] = change
        return changes


def _stacks(matrices: Sequence[Tensor]) -> Iterable[tuple[list[int], list[int]]]:
    """The numbers of the matrices that are of one shape if the tall ones are transposed: the others, and the tall."""
    stacks: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for number, matrix in enumerate(matrices):
        rows, columns = matrix.shape
        stacks.setdefault((min(rows, columns), max(rows, columns)), ([], []))[rows > columns].append(number)
    return stacks.values()


def _as_matrix(filters: Tensor, *, like: Tensor) -> Tensor:
    """A weight as a matrix: [out, in, h, w] as [out, in * h * w], its columns in the order of the memory of `like`."""
    return (filters if like.is_contiguous() else filters.permute(0, 2, 3, 1)).flatten(1)


def _orthogonalize(matrices: Tensor, num_iterations: int) -> Tensor:
    """Set all singular values of the matrices [n, rows, columns], no taller than wide, to about 1."""
    a, b, c = _NEWTON_SCHULZ
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    matrices = matrices / norms.clamp(min=_SMALLEST_NORM)
    for _ in range(num_iterations):
        gram = matrices @ matrices.mT
        matrices = torch.baddbmm(matrices, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), matrices, beta=a)
    return matrices
