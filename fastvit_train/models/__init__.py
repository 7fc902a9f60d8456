"""Models by name: timm's wherever timm has them, ours only where it does not."""

import difflib
from collections.abc import Callable
from functools import partial

import timm
from torch import nn

from fastvit_train.models.resnet_fast import ResNetFast

_SHORT_NAMES = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vit_b16": "vit_base_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_ti16": "vit_tiny_patch16_224",
}
_TIMM_PREFIX = "timm/"


def _timm_model(name: str, *, num_classes: int, resolution: int) -> nn.Module:
    # Models with position embeddings are built for one image size; the others take any and know no such argument.
    size = {"img_size": resolution} if timm.get_pretrained_cfg_value(name, "fixed_input_size") else {}
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **size)
    return model


def _resnet_cifar(name: str, *, num_classes: int, resolution: int) -> nn.Module:  # noqa: ARG001 - any resolution will do
    """A ResNet for small images: 3x3 stem with stride 1 and no max pooling (He et al. 2016, section 4.2)."""
    model: nn.Module = timm.create_model(name, num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def _vit_small_cifar(*, num_classes: int, resolution: int) -> nn.Module:
    """The small ViT of the reference experiments: 6 layers, 6 heads, dim 384, MLP 1536, patch 4; 10.7 M parameters."""
    model: nn.Module = timm.models.VisionTransformer(
        img_size=resolution, patch_size=4, embed_dim=384, depth=6, num_heads=6, mlp_ratio=4, num_classes=num_classes
    )
    return model


def _resnet_fast_cifar(*, num_classes: int, resolution: int) -> nn.Module:  # noqa: ARG001 - any resolution will do
    return ResNetFast(num_classes=num_classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    **{short: partial(_timm_model, name) for short, name in _SHORT_NAMES.items()},
    "resnet18_cifar": partial(_resnet_cifar, "resnet18"),
    "resnet50_cifar": partial(_resnet_cifar, "resnet50"),
    "resnet_fast_cifar": _resnet_fast_cifar,
    "vit_small_cifar": _vit_small_cifar,
}


def build_model(arch: str, *, num_classes: int, resolution: int) -> nn.Module:
    """Build a model with new weights from torch's global generator.

    Args:
        arch: One of `MODELS`, or `timm/NAME` for any model that timm knows.
        num_classes: Outputs of the classifier.
        resolution: Side of its square images, in pixels.

    Returns:
        A module from float [b, 3, resolution, resolution] to logits [b, num_classes].

    Raises:
        ValueError: The name is unknown.
    """
    name = arch.removeprefix(_TIMM_PREFIX)
    if arch.startswith(_TIMM_PREFIX):
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=5)
            raise ValueError(
                f"timm has no model {name!r}; close to it: {', '.join(close) or 'none'} (timm.list_models())"
            )
        return _timm_model(name, num_classes=num_classes, resolution=resolution)
    if arch not in MODELS:
        raise ValueError(f"unknown arch {arch!r}; choose one of: {', '.join(sorted(MODELS))}, or timm/NAME")
    return MODELS[arch](num_classes=num_classes, resolution=resolution)
