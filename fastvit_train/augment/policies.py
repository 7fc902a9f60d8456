"""Which operations an image gets: RandAugment, AutoAugment, TrivialAugment and 3-Augment.

A batch is dealt out to the operations of a policy like cards: each operation gets an equal share of the images, at
random. For an image, all operations are equally likely; but shapes never depend on what is drawn, and an operation
costs no more than its share. Layers of operations follow each other on whole pixel values, as in torchvision: all that
differs from its policies is that the images of a batch are not drawn independently of each other.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from fastvit_train.augment import ops
from fastvit_train.config import AugmentConfig

__all__ = [
    "NUM_LEVELS",
    "POLICIES",
    "Jitter",
    "Layer",
    "Slot",
    "apply_jitter",
    "apply_layers",
    "by_operation",
    "draw_jitter",
    "draw_layers",
]

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
    chance: float = 1.0
    """Share of its images that it is applied to; the others stay as they are."""


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


_CIFAR10_PAIRS: tuple[tuple[tuple[ops.Operation, float, int], tuple[ops.Operation, float, int]], ...] = (
    ((ops.invert, 0.1, 0), (ops.contrast, 0.2, 6)),
    ((ops.rotate, 0.7, 2), (ops.translate_x, 0.3, 9)),
    ((ops.sharpness, 0.8, 1), (ops.sharpness, 0.9, 3)),
    ((ops.shear_y, 0.5, 8), (ops.translate_y, 0.7, 9)),
    ((ops.autocontrast, 0.5, 0), (ops.equalize, 0.9, 0)),
    ((ops.shear_y, 0.2, 7), (ops.posterize, 0.3, 7)),
    ((ops.color, 0.4, 3), (ops.brightness, 0.6, 7)),
    ((ops.sharpness, 0.3, 9), (ops.brightness, 0.7, 9)),
    ((ops.equalize, 0.6, 0), (ops.equalize, 0.5, 0)),
    ((ops.contrast, 0.6, 7), (ops.sharpness, 0.6, 5)),
    ((ops.color, 0.7, 7), (ops.translate_x, 0.5, 8)),
    ((ops.equalize, 0.3, 0), (ops.autocontrast, 0.4, 0)),
    ((ops.translate_y, 0.4, 3), (ops.sharpness, 0.2, 6)),
    ((ops.brightness, 0.9, 6), (ops.color, 0.2, 8)),
    ((ops.solarize, 0.5, 2), (ops.invert, 0.0, 0)),
    ((ops.equalize, 0.2, 0), (ops.autocontrast, 0.6, 0)),
    ((ops.equalize, 0.2, 0), (ops.equalize, 0.6, 0)),
    ((ops.color, 0.9, 9), (ops.equalize, 0.6, 0)),
    ((ops.autocontrast, 0.8, 0), (ops.solarize, 0.2, 8)),
    ((ops.brightness, 0.1, 3), (ops.color, 0.7, 0)),
    ((ops.solarize, 0.4, 5), (ops.autocontrast, 0.9, 0)),
    ((ops.translate_y, 0.9, 9), (ops.translate_y, 0.7, 9)),
    ((ops.autocontrast, 0.9, 0), (ops.solarize, 0.8, 3)),
    ((ops.equalize, 0.8, 0), (ops.invert, 0.1, 0)),
    ((ops.translate_y, 0.7, 9), (ops.autocontrast, 0.9, 0)),
)
"""Two operations, one after the other, each with its chance and its level from 0 to 9."""


def _autoaugment(height: int, width: int) -> tuple[tuple[Slot, ...], ...]:
    """Source: the policy found for CIFAR-10 in arXiv 1805.09501, with the magnitudes of torchvision's `v2.AutoAugment`.

    Those are RandAugment's, in ten levels.
    """
    ranges = {slot.operation: slot for slot in (*_randaugment(height, width), Slot(ops.invert))}

    def slot(operation: ops.Operation, chance: float, level: int) -> Slot:
        span = ranges[operation]
        magnitude = span.weakest + (span.strongest - span.weakest) * level / 9
        return span._replace(weakest=magnitude, strongest=magnitude, chance=chance)

    return tuple(tuple(slot(*pair[layer]) for pair in _CIFAR10_PAIRS) for layer in range(2))


POLICIES: dict[str, Callable[[int, int], tuple[tuple[Slot, ...], ...]]] = {
    "randaugment": lambda height, width: (_randaugment(height, width),),
    "autoaugment": _autoaugment,
    "trivial": lambda height, width: (_trivial(height, width),),
    "three": lambda height, width: (_three(height, width),),
}
"""The slots of a policy for images of (height, width): an image gets those of one number, layer after layer."""


class Layer(NamedTuple):
    """A batch dealt out to the slots of a layer, each of which has an equal number of places."""

    source: Tensor
    """int64 [places]: the image at each place; places left over hold one whose result nobody takes."""
    place: Tensor
    """int64 [b]: where each image is."""
    magnitude: Tensor
    """float32 [places]."""
    applied: Tensor | None
    """bool [places]; None where all are."""


def draw_layers(config: AugmentConfig, shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Layer, ...]:
    """Draw what each image gets of a batch of `shape` [b, h, w], one operation per layer, on the generator's device."""
    if config.policy == "none":
        return ()
    num_images, height, width = shape
    tables = _tables(config.policy, height, width, generator.device)
    level = config.magnitude if config.policy == "randaugment" else None
    num_deals = config.num_ops if config.policy == "randaugment" else 1
    return tuple(layer for _ in range(num_deals) for layer in _deal(tables, level, num_images, generator))


class _Table(NamedTuple):
    """What is drawn from for a layer, a row for each slot in the order of their places."""

    rank: Tensor
    """int64 [slots]: the row of each slot of the policy."""
    magnitude: Tensor
    """float32 [slots, levels]."""
    signed: Tensor
    """bool [slots, 1]."""
    chance: Tensor | None
    """float32 [slots, 1]; None where all are 1."""


@cache
def _tables(policy: str, height: int, width: int, device: torch.device) -> tuple[_Table, ...]:
    return tuple(_table(slots, device) for slots in POLICIES[policy](height, width))


def _table(slots: tuple[Slot, ...], device: torch.device) -> _Table:
    order = [number for _, numbers in by_operation(slots) for number in numbers]
    ordered = [slots[number] for number in order]
    rows = [torch.linspace(slot.weakest, slot.strongest, NUM_LEVELS) for slot in ordered]
    magnitude = torch.stack([row.round() if slot.whole else row for slot, row in zip(ordered, rows, strict=True)])
    chance = torch.tensor([[slot.chance] for slot in ordered])
    return _Table(
        torch.tensor(order).argsort().to(device),
        magnitude.to(device),
        torch.tensor([[slot.signed] for slot in ordered], device=device),
        None if (chance == 1).all() else chance.to(device),
    )


def by_operation(slots: tuple[Slot, ...]) -> list[tuple[ops.Operation, list[int]]]:
    """Each operation and the numbers of its slots, whose places lie side by side, so that they are done at once."""
    operations = [slot.operation for slot in slots]
    return [
        (operation, [number for number, other in enumerate(operations) if other is operation])
        for operation in dict.fromkeys(operations)
    ]


def _deal(
    tables: tuple[_Table, ...], level: int | None, num_images: int, generator: torch.Generator
) -> Iterator[Layer]:
    """Deal the images out once, and draw what they get in the layers of a policy."""
    num_slots, device = len(tables[0].rank), generator.device
    share = -(-num_images // num_slots)
    cards = torch.randperm(num_slots * share, generator=generator, device=device)
    for table in tables:
        if level is None:
            levels = torch.randint(NUM_LEVELS, (num_slots, share), generator=generator, device=device)
        else:
            levels = torch.full((num_slots, share), level, device=device)
        negative = torch.randint(2, levels.shape, generator=generator, device=device, dtype=torch.bool) & table.signed
        magnitude = table.magnitude.gather(1, levels)
        applied = None
        if table.chance is not None:
            applied = (torch.rand(levels.shape, generator=generator, device=device) < table.chance).flatten()
        places = table.rank[cards // share] * share + cards % share
        yield Layer(
            source=places.argsort() % num_images,
            place=places[:num_images],
            magnitude=torch.where(negative, -magnitude, magnitude).flatten(),
            applied=applied,
        )


def apply_layers(images: Tensor, layers: tuple[Layer, ...], policy: str) -> Tensor:
    """Apply layer after layer, exactly as torchvision would, to images int32 [b, h, w] as `ops` packs them."""
    if not layers:
        return images
    for layer, slots in zip(layers, cycle(POLICIES[policy](*images.shape[1:])), strict=False):
        dealt, share = images[layer.source], len(layer.source) // len(slots)
        results, end = [], 0
        for operation, numbers in by_operation(slots):
            first, end = end, end + share * len(numbers)
            result = operation(dealt[first:end], layer.magnitude[first:end])
            if layer.applied is not None:
                result = torch.where(layer.applied[first:end, None, None], result, dealt[first:end])
            results.append(result)
        images = torch.cat(results)[layer.place]
    return images


class Jitter(NamedTuple):
    """Brightness, contrast and saturation of each image, in its own order."""

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
    """Apply it, as torchvision's `v2.ColorJitter` does, to images int32 [b, h, w] as `ops` packs them."""
    for which, magnitude in zip(jitter.order.unbind(1), jitter.magnitude.unbind(1), strict=True):
        gray = ops.gray(images)
        shade = torch.where((which == 1)[:, None, None], gray.mean(dim=(1, 2), keepdim=True), gray)
        images = ops.blend(images, torch.where((which == 0)[:, None, None], 0, shade), magnitude)
    return images
