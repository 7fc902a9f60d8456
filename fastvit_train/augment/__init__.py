"""Augmentation on the device: batched, with its own parameters for each sample.

Drawing the parameters and applying them are apart, so that the second is a pure function, easy to compile and test.
In the order of their application: flip and shift, the operations of a policy, colour jitter, erasing, normalisation,
mixing.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fastvit_train.augment.mixing import ERASED, Mixing, draw_erased, draw_mixing, erase, mix, mix_labels, partners
from fastvit_train.augment.ops import channels, pack
from fastvit_train.augment.policies import Jitter, Layer, apply_jitter, apply_layers, draw_jitter, draw_layers
from fastvit_train.config import AugmentConfig
from loaders.errors import FastvitError

__all__ = [
    "Augmentation",
    "Augmented",
    "Rows",
    "apply",
    "augment",
    "compiled_apply",
    "draw",
    "flip_and_shift",
    "normalize",
]


class Augmentation(NamedTuple):
    """What happens to each sample of a batch."""

    flip: Tensor
    """bool [b]: mirror left to right."""
    shift: Tensor
    """int64 [b, 2]: pixels down and to the right."""
    layers: tuple[Layer, ...] = ()
    """The operations of the policy, one of each layer."""
    jitter: Jitter | None = None
    """Brightness, contrast and saturation."""
    erased: Tensor | None = None
    """int64 [b, 4]: the box that is erased."""
    mixing: Mixing | None = None
    """What comes from another sample."""


class Rows(NamedTuple):
    """Which rows of the batch over all ranks a rank has: those from `first` on."""

    rank: int
    first: int
    total: int
    """Rows of all ranks."""


def draw(
    config: AugmentConfig,
    *,
    index: Tensor,
    resolution: int,
    epoch: int | Tensor,
    generator: torch.Generator,
    rows: Rows | None = None,
) -> Augmentation:
    """Draw the parameters for the samples `index` (int64 [b]) on the device of `index` and `generator`.

    Every rank draws for the rows of all ranks and takes its own, so that a sample gets the same on any number of them.
    Only the operations of a policy, which are dealt out evenly to the samples of a rank, are drawn by each rank.

    An alternating flip mirrors one half of the dataset in even epochs and the other half in odd ones, so that two
    epochs show every image both ways (source: arXiv 2404.00498).
    """
    num_samples, device = len(index), index.device
    rank, first, total = rows or Rows(0, 0, num_samples)
    own = slice(first, first + num_samples)
    match config.flip:
        case "alternating":
            mixed = index * 0x9E3779B1  # hashed twice, so that the halves don't follow how the dataset is sorted
            mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B
            flip = ((mixed >> 20) & 1) == epoch % 2
        case "random":
            flip = torch.randint(2, (total,), generator=generator, device=device, dtype=torch.bool)[own]
        case "none":
            flip = torch.zeros(num_samples, device=device, dtype=torch.bool)
        case _:
            raise FastvitError(f"augment.flip must be none, random or alternating, got {config.flip}")
    shift = torch.randint(-config.shift, config.shift + 1, (total, 2), generator=generator, device=device)[own]
    shape = (total, resolution, resolution)
    layers = draw_layers(config, shape, generator)
    if num_samples < total:  # what was drawn for all has brought `generator` to where it is on one rank
        of_rank = torch.Generator(device).manual_seed(generator.initial_seed() ^ (rank + 1))
        layers = draw_layers(config, (num_samples, resolution, resolution), of_rank)
    jitter = draw_jitter(config.color_jitter, total, generator)
    erased = draw_erased(config.erasing_probability, shape, generator)
    mixing = draw_mixing(config, shape, generator)
    return Augmentation(
        flip,
        shift,
        layers,
        None if jitter is None else Jitter(*(drawn[own] for drawn in jitter)),
        None if erased is None else erased[own],
        None if mixing is None else Mixing(*(drawn[own] for drawn in mixing)),
    )


def flip_and_shift(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Mirror and shift each image in one gather; what comes in from outside is the reflected image.

    Args:
        images: Any dtype [b, c, h, w], channels_last.
        augmentation: One entry per image; shifts smaller than the sides.

    Returns:
        The same dtype and shape, channels_last.
    """
    num_images, num_channels, height, width = images.shape
    rows = _reflect(torch.arange(height, device=images.device) - augmentation.shift[:, :1], height)
    columns = _reflect(torch.arange(width, device=images.device) - augmentation.shift[:, 1:], width)
    columns = torch.where(augmentation.flip[:, None], width - 1 - columns, columns)
    sample = torch.arange(num_images, device=images.device)[:, None, None]
    pixels = (sample * height + rows[:, :, None]) * width + columns[:, None, :]
    flat = images.permute(0, 2, 3, 1).reshape(-1, num_channels)
    return flat.index_select(0, pixels.flatten()).view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def _reflect(position: Tensor, side: int) -> Tensor:
    """Fold positions outside [0, side) back without repeating the border, as torch's `reflect` padding does."""
    return side - 1 - (side - 1 - position.abs()).abs()


def normalize(images: Tensor, config: AugmentConfig, dtype: torch.dtype) -> Tensor:
    """Turn uint8 [b, 3, h, w], channels_last, into `dtype` with zero mean and unit deviation per channel."""
    num_images, num_channels, height, width = images.shape
    # Whole rows at a time: three channels alone would leave most of a vector register empty.
    scale, offset = _row_scale_and_offset(config, width, images.device)
    rows = images.permute(0, 2, 3, 1).reshape(num_images, height, width * num_channels)
    normalized = (rows.float() * scale + offset).to(dtype)
    return normalized.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


@cache
def _row_scale_and_offset(config: AugmentConfig, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a row of pixels is multiplied by and what is added: float32 [width * 3] each."""
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    scale, offset = (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)
    return scale.to(device), offset.to(device)


def apply(images: Tensor, augmentation: Augmentation, config: AugmentConfig, dtype: torch.dtype) -> Tensor:
    """Augment uint8 [b, 3, h, w] and normalise it to `dtype`, both channels_last; `augmentation` is drawn for `config`.

    Compiles without graph breaks.
    """
    moves = config.flip != "none" or config.shift > 0
    if config.is_plain and not torch.compiler.is_compiling():  # compiled, the other way costs no more
        return normalize(flip_and_shift(images, augmentation) if moves else images, config, dtype)
    pixels = pack(images)
    if moves:
        pixels = flip_and_shift(pixels[:, None], augmentation)[:, 0]
    pixels = apply_layers(pixels, augmentation.layers, config.policy)
    if augmentation.jitter is not None:
        pixels = apply_jitter(pixels, augmentation.jitter)
    if augmentation.erased is not None:
        pixels = erase(pixels, augmentation.erased)
    planes = _normalized_channels(pixels, config)
    if augmentation.mixing is not None:
        planes = mix(planes, _normalized_channels(partners(pixels), config), augmentation.mixing)
    return torch.stack(planes, dim=-1).to(dtype).permute(0, 3, 1, 2)


def _normalized_channels(pixels: Tensor, config: AugmentConfig) -> list[Tensor]:
    """The channels of int32 [b, h, w], as `ops` packs them: float32 with zero mean and unit deviation."""
    moments = zip(channels(pixels), config.mean, config.std, strict=True)
    normalized = [channel.float() * (1 / (255 * std)) - mean / std for channel, mean, std in moments]
    return [torch.where(pixels == ERASED, 0, channel) for channel in normalized]


@cache
def compiled_apply(device_type: str) -> Callable[[Tensor, Augmentation, AugmentConfig, torch.dtype], Tensor]:
    """`apply`, compiled for the kind of device and the shapes that it is given."""
    # On the CPU, what several loads or operations use is computed once: inlined into each gather, it costs several
    # times as much. A GPU has it the other way: passes over memory are what costs.
    # The option is one of Inductor's, which torch may rename: checked with 2.11.0 and 2.14.1.
    options: dict[str, Any] | None = {"realize_reads_threshold": 0} if device_type == "cpu" else None
    compiled = torch.compile(apply, dynamic=False, options=options)
    return cast("Callable[[Tensor, Augmentation, AugmentConfig, torch.dtype], Tensor]", compiled)


class Augmented(NamedTuple):
    """A training batch as the model and the loss want it."""

    images: Tensor
    """Normalised [b, 3, h, w], channels_last."""
    targets: Tensor
    """int64 [b], or where samples are mixed their classes' shares, float32 [b, classes]."""
    labels: Tensor
    """int64 [b]: of each sample, the label that has the largest share."""


def augment(
    images: Tensor,
    labels: Tensor,
    config: AugmentConfig,
    *,
    index: Tensor,
    epoch: int | Tensor,
    num_classes: int,
    generator: torch.Generator,
    dtype: torch.dtype,
    rows: Rows | None = None,
    compiled: bool = False,
) -> Augmented:
    """Draw and apply the augmentation of a batch.

    Args:
        images: uint8 [b, 3, h, h], channels_last.
        labels: int64 [b].
        config: What may happen.
        index: int64 [b], positions in the dataset.
        epoch: Decides alternating flips; a number, or an int64 scalar on the device of the images.
        num_classes: Length of mixed targets.
        generator: On the device of the images; all randomness comes from it.
        dtype: Of the resulting images.
        rows: Where they are in the batch over all ranks; they are all of it when not given.
        compiled: Compile what is applied, again for every shape.
    """
    augmentation = draw(config, index=index, resolution=images.shape[-1], epoch=epoch, generator=generator, rows=rows)
    transform = compiled_apply(images.device.type) if compiled else apply
    inputs = transform(images, augmentation, config, dtype)
    if augmentation.mixing is None:
        return Augmented(inputs, labels, labels)
    return Augmented(inputs, *mix_labels(labels, augmentation.mixing, num_classes))
