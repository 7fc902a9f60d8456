"""The moving average of the weights."""

from copy import deepcopy

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """An exponential moving average of a model's weights and buffers, in `module`, to be updated after each step.

    Until it is old enough for its half-life it is the plain mean of the weights after each step so far, so that the
    random weights at the start count for nothing, however short the run.

    Args:
        model: On its device; copied.
        half_life_steps: Steps after which weights count half as much.
    """

    def __init__(self, model: nn.Module, *, half_life_steps: float) -> None:
        self.module = deepcopy(model).eval()
        self._decay = 0.5 ** (1 / half_life_steps)
        # The share of the new weights is on the device, where a CUDA graph reads it.
        self._share = torch.zeros((), device=next(model.parameters()).device)
        self._averaged: list[tuple[Tensor, Tensor]] = []
        self._copied: list[tuple[Tensor, Tensor]] = []

    def set_step(self, step: int) -> None:
        """Say which step the next update follows, from 1."""
        self._share.fill_(1 - min(1 - 1 / step, self._decay))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of the model, always the same one; they must stay where they are in memory."""
        if not self._averaged:
            # Not before the first step: a model that is to be sharded gets other tensors until then.
            pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
            self._averaged = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
            self._copied = [(mean, value) for mean, value in pairs if not mean.is_floating_point()]
        means, values = [list(tensors) for tensors in zip(*self._averaged, strict=True)]
        torch._foreach_lerp_(means, values, [self._share.to(mean.dtype) for mean in means])
        for mean, value in self._copied:
            mean.copy_(value)
