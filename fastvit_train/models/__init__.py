"""Models by name: timm's wherever timm has them, ours only where it does not."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import timm
from timm.layers import PatchDropout
from torch import nn

from fastvit_train.config import ModelConfig
from fastvit_train.models.image_sizes import require_possible_size, require_whole_patches
from fastvit_train.models.resnet_fast import ResNetFast
from fastvit_train.models.vit_start import start_vit
from loaders.errors import FastvitError

__all__ = ["MODELS", "build_model", "check_resolution", "classifier_names", "set_patch_drop", "timm_equivalent"]

_SHORT_NAMES = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vit_b16": "vit_base_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_ti16": "vit_tiny_patch16_224",
}
_TIMM_PREFIX = "timm/"
_CIFAR_SIDE = 32  # of the images that the models were made for which timm lacks
_DEFAULTS = ModelConfig()
# What timm calls the options that not every model takes.
_OPTION_NAMES = {
    "drop_path_rate": "model.drop_path",
    "patch_drop_rate": "model.patch_drop, here or in phases",
    "global_pool": "model.pooling",
    "class_token": "model.pooling",
    "qk_norm": "model.qk_norm",
    "dynamic_img_size": "phases of another resolution",
}


# Models with position embeddings are built for one image size, the others take any; `any_resolution` asks for more.
def _timm_model(
    name: str, *, num_classes: int, resolution: int, any_resolution: bool = False, **options: object
) -> nn.Module:
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = resolution
        if any_resolution:
            options["dynamic_img_size"] = True
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **options)
    return model


def _resnet_cifar(
    name: str,
    *,
    num_classes: int,
    resolution: int,  # noqa: ARG001 - any will do
    any_resolution: bool = False,  # noqa: ARG001
    **options: object,
) -> nn.Module:
    """A ResNet for small images: 3x3 stem with stride 1 and no max pooling (He et al. 2016, section 4.2)."""
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **options)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


# What makes timm's `vit_small_patch16_224` the small ViT for small images.
_VIT_SMALL_CIFAR = {"patch_size": 4, "embed_dim": 384, "depth": 6, "num_heads": 6, "mlp_ratio": 4}


def _vit_small_cifar(
    *, num_classes: int, resolution: int, any_resolution: bool = False, **options: object
) -> nn.Module:
    """The small ViT of the reference experiments: 6 layers, 6 heads, dim 384, MLP 1536, patch 4; 10.7 M parameters."""
    model: nn.Module = timm.models.VisionTransformer(
        img_size=resolution, num_classes=num_classes, dynamic_img_size=any_resolution, **_VIT_SMALL_CIFAR, **options
    )
    return model


def _resnet_fast_cifar(*, num_classes: int, resolution: int, any_resolution: bool = False) -> nn.Module:  # noqa: ARG001
    return ResNetFast(num_classes=num_classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    **{short: partial(_timm_model, name) for short, name in _SHORT_NAMES.items()},
    "resnet18_cifar": partial(_resnet_cifar, "resnet18"),
    "resnet50_cifar": partial(_resnet_cifar, "resnet50"),
    "resnet_fast_cifar": _resnet_fast_cifar,
    "vit_small_cifar": _vit_small_cifar,
}


def build_model(
    arch: str,
    *,
    num_classes: int,
    resolution: int,
    config: ModelConfig = _DEFAULTS,
    phases: Sequence[tuple[float, int, float]] = (),
) -> nn.Module:
    """Build a model with new weights from torch's global generator.

    Args:
        arch: One of `MODELS`, or `timm/NAME` for any model that timm knows.
        num_classes: Outputs of the classifier.
        resolution: Side of its square images, in pixels.
        config: What changes the model.
        phases: `Config.phases`: training will ask for their resolutions and patch dropouts too.

    Returns:
        A module from float [b, 3, resolution, resolution] to logits [b, num_classes].

    Raises:
        FastvitError: The name is unknown, or the model does not have an option that is asked for.
    """
    options = _options(config, phases)
    if any(other != resolution for _, other, _ in phases):
        options["any_resolution"] = True
    try:
        model = _factory(arch)(num_classes=num_classes, resolution=resolution, **options)
    except TypeError as error:
        refused = [option for name, option in _OPTION_NAMES.items() if f"argument '{name}'" in str(error)]
        if not refused:
            raise
        raise FastvitError(f"{arch} has no option for {refused[0]}; leave it out, or use another --arch") from error
    require_whole_patches(model, arch, resolution=resolution, phases=phases)
    start_vit(model, config)
    return model


def check_resolution(
    arch: str, *, resolution: int, config: ModelConfig, phases: Sequence[tuple[float, int, float]] = ()
) -> None:
    """Refuse images that the model cannot take, at once: nothing is made that takes time or memory.

    Args:
        arch: See `build_model`.
        resolution: See there.
        config: See there.
        phases: See there.

    Raises:
        FastvitError: The model would not see all of such an image, or fails with it; or it is unknown.
    """
    _factory(arch)  # refuses a name that is unknown
    without_values = replace(config, mimetic_init=False, zero_residual=False, positions="learned")
    name = _SHORT_NAMES.get(arch, arch.removeprefix(_TIMM_PREFIX))
    own = _CIFAR_SIDE if name in MODELS else timm.get_pretrained_cfg_value(name, "input_size")[-1]
    for each in dict.fromkeys([resolution, *(other for _, other, _ in phases)]):
        require_possible_size(
            arch,
            lambda side: build_model(arch, num_classes=2, resolution=side, config=without_values, phases=phases),
            resolution=each,
            own=own,
        )


def _factory(arch: str) -> Callable[..., nn.Module]:
    name = arch.removeprefix(_TIMM_PREFIX)
    if arch.startswith(_TIMM_PREFIX):
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=5)
            raise FastvitError(
                f"timm has no model {name!r}; close to it: {', '.join(close) or 'none'} (timm.list_models())"
            )
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # of a tag, which is what stands behind a dot
            raise FastvitError(f"timm/{name}: {error} Leave it out: weights come from --init-from") from error
        return partial(_timm_model, name)
    if arch not in MODELS:
        raise FastvitError(f"unknown arch {arch!r}; choose one of: {', '.join(sorted(MODELS))}, or timm/NAME")
    return MODELS[arch]


def _options(config: ModelConfig, phases: Sequence[tuple[float, int, float]]) -> dict[str, Any]:
    """What timm is to be told besides its defaults."""
    patch_drop = max([config.patch_drop, *(phase_drop for _, _, phase_drop in phases)])
    rates = {"drop_path_rate": config.drop_path, "patch_drop_rate": patch_drop}
    options: dict[str, Any] = {name: rate for name, rate in rates.items() if rate}
    if config.pooling is not None:
        options |= {"global_pool": config.pooling, "class_token": config.pooling == "token"}
    if config.qk_norm:
        options["qk_norm"] = True
    return options


def timm_equivalent(arch: str, *, resolution: int, config: ModelConfig) -> tuple[str, dict[str, Any]] | None:
    """The model of timm that takes a trained model's weights and computes the same.

    Returns:
        Its name and arguments for `timm.create_model`, besides the number of classes; None where timm has no such
        model.
    """
    # Dropped paths and patches are of the training alone.
    arguments = _options(replace(config, drop_path=0.0, patch_drop=0.0), ())
    if arch == "vit_small_cifar":
        return "vit_small_patch16_224", {**_VIT_SMALL_CIFAR, "img_size": resolution, **arguments}
    name = _SHORT_NAMES.get(arch, arch.removeprefix(_TIMM_PREFIX))
    if name == arch:
        return None
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments["img_size"] = resolution
    return name, arguments


def set_patch_drop(model: nn.Module, share: float) -> None:
    """From now on leave this share of the patches out in training, if the model was built to leave any out."""
    for module in model.modules():
        if isinstance(module, PatchDropout):
            module.prob = share


def classifier_names(model: nn.Module) -> set[str]:
    """The names of the parameters of the model's last layer, as its `get_classifier` tells it; empty without one."""
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        return set()
    found = get_classifier()
    layers = found if isinstance(found, tuple) else (found,)  # distilled models have two
    own = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}
