"""The large matmuls of a ViT in float8, by torchao: forward and backward, each tensor scaled by its largest value.

Weights stay float32, as parameters of the same names; what a matmul takes is rounded to float8 just before it. Nothing
of that waits for the device.
"""

import torch
from timm.models import VisionTransformer
from torch import nn

from loaders.errors import FastvitError, MissingPackageError

__all__ = ["compute_in_float8", "float8_layers", "use_float8"]

_FIRST_CAPABILITY = (8, 9)
"""The CUDA compute capability of the first cards that multiply float8 matrices: Ada; Hopper has 9.0."""
_MULTIPLE = 16
"""What the sizes of such a matrix must be multiples of."""


def use_float8(model: nn.Module, device: torch.device) -> None:
    """Have the model compute its large matmuls in float8, where that can be done.

    Args:
        model: On its device, not yet compiled, copied or sharded; changed in place.
        device: That it is on.

    Raises:
        FastvitError: The device cannot do that, or the model has no such matmuls.
        MissingPackageError: torchao is not installed.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _FIRST_CAPABILITY:
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise FastvitError(
            f"precision is fp8, but the device is {kind}, which has no float8 matmuls (NVIDIA's Ada, Hopper and later "
            "have them): use --precision bf16"
        )
    compute_in_float8(model)


def compute_in_float8(model: nn.Module, *, emulate: bool = False) -> None:
    """Convert the layers that `float8_layers` names; parameters stay the same tensors, of the same names.

    Args:
        model: Changed in place.
        emulate: Round to float8, but multiply in float32, which any device can.

    Raises:
        FastvitError: The model has no such layers.
        MissingPackageError: torchao is not installed.
    """
    layers = float8_layers(model)
    if not layers:
        raise FastvitError(
            "precision is fp8, which is for the linear layers in the blocks of a ViT, of sizes that are multiples of "
            f"{_MULTIPLE}, but the model, a {type(model).__name__}, has none: use --precision bf16"
        )
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise MissingPackageError(
            f"precision fp8 needs torchao, which does not import here ({error}); install it with: pip install torchao, "
            "at least 0.18 (or pip install 'fastvit[fp8]'), or use --precision bf16"
        ) from error
    # One scale for each tensor is torchao's fastest recipe. The gradient of a weight is summed over all tokens, whose
    # number need not be a multiple.
    config = Float8LinearConfig(pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(model, module_filter_fn=lambda _, name: name in layers, config=config)


def float8_layers(model: nn.Module) -> frozenset[str]:
    """The names of the linear layers in a ViT's blocks, where sizes allow; none in other models of timm or ours.

    Not the patch embedding and the classifier, which are small and whose rounding would cost more.
    """
    if not isinstance(model, VisionTransformer):
        return frozenset()
    return frozenset(
        f"blocks.{name}"
        for name, layer in model.blocks.named_modules()
        if isinstance(layer, nn.Linear) and not (layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE)
    )
