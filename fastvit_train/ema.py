"""The moving average of the weights."""

from timm.utils import ModelEmaV3
from torch import nn

__all__ = ["build_ema"]


def build_ema(model: nn.Module, *, half_life_steps: float) -> ModelEmaV3:
    """An exponential moving average of the model's weights and buffers, in `.module`, to be updated after each step.

    Until it is old enough for its half-life it is the plain mean of the weights after each step so far, so that the
    random weights at the start count for nothing, however short the run.

    Args:
        model: On its device; copied.
        half_life_steps: Steps after which weights count half as much.
    """
    return ModelEmaV3(model, decay=0.5 ** (1 / half_life_steps), use_warmup=True, warmup_gamma=1, warmup_power=1)
