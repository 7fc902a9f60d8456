"""Scaling of the loss, for gradients in float16."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastvit_train.optim import Optimizers
from loaders.errors import FastvitError

__all__ = ["LossScaler"]

_SMALLEST_SCALE = 2.0**-16


class LossScaler:
    """Multiplies the loss so that small gradients are not rounded to zero in float16, and steps the optimizers.

    It is torch's GradScaler over all optimizers at once: where one gradient is not finite, none of them steps, and the
    scale is halved. After 2000 steps without that it is doubled. It starts at 65,536, so the first steps of a run are
    often left out. To the schedule, the epochs and the moving average, such a step counts as one that changed nothing.

    Args:
        model: Whose gradients are scaled.
        optimizer: Over the model's parameters.
        device: Where they are.
        enabled: When off, the loss is not scaled and every step is taken.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizers, device: torch.device, *, enabled: bool) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=enabled)
        self._as_one = cast("Optimizer", _AsOne(model, optimizer.step))

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return self._scaler.scale(loss)

    def unscale(self) -> None:
        """Divide the gradients by the scale: when all of a step are there, before they are clipped."""
        self._scaler.unscale_(self._as_one)

    def step(self) -> None:
        """Step the optimizers unless a gradient is not finite, and adapt the scale."""
        self._scaler.step(self._as_one)
        self._scaler.update()

    def read_scale(self) -> float | None:
        """The scale, for which this waits for the device; None when off.

        Raises:
            FastvitError: It has become so small that no scale helps: the gradients themselves are not finite.
        """
        if not self._scaler.is_enabled():
            return None
        scale: float = self._scaler.get_scale()
        if scale < _SMALLEST_SCALE:
            raise FastvitError(
                f"the gradients overflow float16 at any scale of the loss (now {scale:g}), so no step is taken any "
                "more; a lower --optim.lr or --precision fp32 may help"
            )
        return scale

    def state_dict(self) -> dict[str, Any]:
        """The state; empty when off."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the scale starts anew after a run that did not scale."""
        if state:
            self._scaler.load_state_dict(state)


class _AsOne:
    """All optimizers as the one that GradScaler asks for its gradients.

    They are those of the model's own parameters: Muon steps views of some of them.
    """

    def __init__(self, model: nn.Module, step: Callable[[], None]) -> None:
        self._model = model
        self.step = step

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._model.parameters())}]
