"""Which operations an image gets: RandAugment, TrivialAugment and 3-Augment.

A batch is dealt out to the operations of a policy like cards: each operation gets an equal share of the images, at
random. For an image, all operations are equally likely; but shapes never depend on what is drawn, and an operation
costs no more than its share. The layers of RandAugment follow each other on whole pixel values, as in torchvision: all
that differs from its policies is that the images of a batch are not drawn independently of each other.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastvit_train import augment_ops as ops
from fastvit_train.config import AugmentConfig

NUM_LEVELS = 31
"""Steps from the weakest to the strongest magnitude, as in torchvision."""


class Slot(NamedTuple):
    """An operation of a policy and the range of its magnitudes."""

    operation: ops.Operation
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    """Negative magnitudes are as likely as positive ones."""
    whole: bool = False
    """Magnitudes are whole numbers."""


def _wide(shear: float, translate: tuple[float, float], degrees: float, blend: float, bits: int) -> tuple[Slot, ...]:
    """The operations that RandAugment and TrivialAugment share, by their strongest magnitudes."""
    return (
        Slot(ops.identity),
        Slot(ops.shear_x, 0, shear, signed=True),
        Slot(ops.shear_y, 0, shear, signed=True),
        Slot(ops.translate_x, 0, translate[0], signed=True),
        Slot(ops.translate_y, 0, translate[1], signed=True),
        Slot(ops.rotate, 0, degrees, signed=True),
        Slot(ops.brightness, 0, blend, signed=True),
        Slot(ops.color, 0, blend, signed=True),
        Slot(ops.contrast, 0, blend, signed=True),
        Slot(ops.sharpness, 0, blend, signed=True),
        Slot(ops.posterize, 8, bits, whole=True),
        Slot(ops.solarize, 1, 0),
        Slot(ops.autocontrast),
        Slot(ops.equalize),
    )


def _randaugment(height: int, width: int) -> tuple[Slot, ...]:
    """Source: arXiv 1909.13719 with the magnitudes of torchvision's `v2.RandAugment`."""
    return _wide(0.3, (150 / 331 * width, 150 / 331 * height), 30, 0.9, 4)


def _trivial(height: int, width: int) -> tuple[Slot, ...]:  # noqa: ARG001 - its translations don't depend on them
    """Source: arXiv 2103.10158 with the magnitudes of torchvision's `v2.TrivialAugmentWide`."""
    return _wide(0.99, (32, 32), 135, 0.99, 2)


def _three(height: int, width: int) -> tuple[Slot, ...]:  # noqa: ARG001 - nor do these
    """Grey, solarized from the middle, or blurred; source: DeiT III, arXiv 2204.07118."""
    return (Slot(ops.color, -1, -1), Slot(ops.solarize, 0.5, 0.5), Slot(ops.gaussian_blur, 0.1, 2.0))


POLICIES: dict[str, Callable[[int, int], tuple[Slot, ...]]] = {
    "randaugment": _randaugment,
    "trivial": _trivial,
    "three": _three,
}
"""The slots of a policy for images of (height, width)."""


class Layer(NamedTuple):
    """A batch dealt out to the slots of a policy, each of which has an equal number of places."""

    source: Tensor
    """int64 [places]: the image at each place; places left over hold one whose result nobody takes."""
    place: Tensor
    """int64 [b]: where each image is."""
    magnitude: Tensor
    """float32 [places]."""


def draw_layers(config: AugmentConfig, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Layer, ...]:
    """Draw what each image gets of a batch of `shape` [b, h, w], one operation per layer, on the generator's device."""
    if config.policy == "none":
        return ()
    num_images, height, width = shape
    table, signed = _magnitudes(config.policy, height, width, generator.device)
    level = config.magnitude if config.policy == "randaugment" else None
    num_layers = config.num_ops if config.policy == "randaugment" else 1
    return tuple(_deal(table, signed, level, num_images, generator) for _ in range(num_layers))


def _deal(table: Tensor, signed: Tensor, level: int | None, num_images: int, generator: torch.Generator) -> Layer:
    num_slots, device = len(table), table.device
    share = -(-num_images // num_slots)
    places = torch.randperm(num_slots * share, generator=generator, device=device)
    if level is None:
        levels = torch.randint(NUM_LEVELS, (num_slots, share), generator=generator, device=device)
    else:
        levels = torch.full((num_slots, share), level, device=device)
    negative = torch.randint(2, levels.shape, generator=generator, device=device, dtype=torch.bool) & signed
    magnitude = table.gather(1, levels)
    return Layer(
        source=places.argsort() % num_images,
        place=places[:num_images],
        magnitude=torch.where(negative, -magnitude, magnitude).flatten(),
    )


@cache
def _magnitudes(policy: str, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The magnitude of each slot at each level, float32 [slots, levels], and which are signed, bool [slots, 1]."""
    slots = POLICIES[policy](height, width)
    rows = [torch.linspace(slot.weakest, slot.strongest, NUM_LEVELS) for slot in slots]
    table = torch.stack([row.round() if slot.whole else row for slot, row in zip(slots, rows, strict=True)])
    return table.to(device), torch.tensor([[slot.signed] for slot in slots], device=device)


def apply_layers(images: Tensor, layers: tuple[Layer, ...], policy: str) -> Tensor:
    """Apply layer after layer, exactly as torchvision would, to images int32 [b, h, w] as `augment_ops` packs them."""
    for layer in layers:
        slots = POLICIES[policy](*images.shape[1:])
        dealt, share = images[layer.source], len(layer.source) // len(slots)
        places = [slice(first, first + share) for first in range(0, len(dealt), share)]
        results = [slot.operation(dealt[at], layer.magnitude[at]) for slot, at in zip(slots, places, strict=True)]
        images = torch.cat(results)[layer.place]
    return images


class Jitter(NamedTuple):
    """Brightness, contrast and saturation of each image, in an order of its own."""

    order: Tensor
    """int64 [b, 3]: a permutation of brightness (0), contrast (1) and saturation (2)."""
    magnitude: Tensor
    """float32 [b, 3]: factor less one, in that order."""


def draw_jitter(strength: float, num_images: int, generator: torch.Generator) -> Jitter | None:
    """Draw factors in [1 - strength, 1 + strength] and their order, on the device of `generator`; None for 0."""
    if not strength:
        return None
    uniform = torch.rand((2, num_images, 3), generator=generator, device=generator.device)
    return Jitter(uniform[0].argsort(dim=1), (2 * uniform[1] - 1) * strength)


def apply_jitter(images: Tensor, jitter: Jitter) -> Tensor:
    """Apply it, as torchvision's `v2.ColorJitter` does, to images int32 [b, h, w] as `augment_ops` packs them."""
    for which, magnitude in zip(jitter.order.unbind(1), jitter.magnitude.unbind(1), strict=True):
        gray = ops.gray(images)
        shade = torch.where((which == 1)[:, None, None], gray.mean(dim=(1, 2), keepdim=True), gray)
        images = ops.blend(images, torch.where((which == 0)[:, None, None], 0, shade), magnitude)
    return images
