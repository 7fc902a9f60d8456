"""The reference experiments: what `fastvit-train` is asked for, at each scale, in the order of their worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

__all__ = ["SCALES", "Experiment", "Family", "Part", "Scale"]

Scale = Literal["cpu", "gpu10", "full"]
Part = Literal["table", "fractions", "pretraining", "distillation"]
Family = Literal["ViT", "ResNet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One run of `fastvit-train`."""

    name: str
    """Of its folder."""
    title: str
    """For people."""
    part: Part
    """Where the page shows it; the table shows those of other parts too that have a reference."""
    options: tuple[str, ...]
    """Of `fastvit-train`, without data, seed, initial weights and run folder."""
    data: str
    """One of `data_sets.DATA_SETS`."""
    starts_from: str | None = None
    """The experiment from whose best weights it starts."""
    reference: str | None = None
    """Its key in `published.PUBLISHED`."""
    fraction: float = 1.0
    """Share of CIFAR-10's training images that it sees."""
    family: Family


class _Recipe(NamedTuple):
    preset: str
    epochs: float | None = None
    """As the preset has it when None."""
    arch: str | None = None

    def options(self) -> tuple[str, ...]:
        epochs = () if self.epochs is None else ("--epochs", f"{self.epochs:g}")
        return ("--preset", self.preset, *epochs, *(() if self.arch is None else ("--arch", self.arch)))


def _experiment(
    family: Family,
    name: str,
    title: str,
    recipe: _Recipe,
    *,
    part: Part = "table",
    data: str = "cifar10",
    starts_from: str | None = None,
    reference: str | None = None,
) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        part=part,
        family=family,
        options=recipe.options(),
        data=data,
        starts_from=starts_from,
        reference=reference,
    )


_vit, _resnet = partial(_experiment, "ViT"), partial(_experiment, "ResNet")


def _with_less_data(name: str, title: str, family: Family, recipe: _Recipe) -> tuple[Experiment, ...]:
    """A recipe on 5, 10 and 30 % of CIFAR-10; its epochs grow with the root of what the images are fewer by."""
    assert recipe.epochs is not None
    found = []
    for percent in (5, 10, 30):
        shorter = recipe._replace(epochs=round(recipe.epochs / math.sqrt(percent / 100)))
        experiment = _experiment(
            family,
            f"{name}-{percent}",
            f"{title}, {percent} % of CIFAR-10",
            shorter,
            part="fractions",
            data=f"cifar10-{percent}",
        )
        found.append(replace(experiment, fraction=percent / 100))
    return tuple(found)


def _with(options: tuple[str, ...], experiments: tuple[Experiment, ...]) -> tuple[Experiment, ...]:
    return tuple(replace(experiment, options=(*experiment.options, *options)) for experiment in experiments)


_EVALUATED_ONCE = ("--eval-every-epochs", "1000")
"""The accuracy after each epoch would take minutes, and nothing depends on it."""
_SAVED_ONCE = ("--checkpoint-every-epochs", "1000")
"""So would checkpoints on a GPU, whose epochs take less than a second; a signal writes one all the same."""

# 2.5 hours of two cores that multiply in bf16. The distilled ViT, with its teacher, has the minutes of the plain one.
# Fine-tuning is short, as pretraining is worth the most there; it too ends at 32 px with all patches: a quarter of an
# epoch.
_CPU_VIT, _CPU_RESNET = _Recipe("cifar10-vit-small-fast", 5), _Recipe("cifar10-quick", 6)
_CPU_DISTILLED, _CPU_SHORT = _Recipe("cifar10-vit-small-distilled", 4.5), _CPU_VIT._replace(epochs=1.25)
_CPU = (
    _vit("vit-small-scratch", "small ViT from scratch", _CPU_VIT, reference="vit-small-cifar10"),
    _resnet("resnet-fast-scratch", "fast ResNet from scratch", _CPU_RESNET, reference="resnet-fast-cifar10"),
    _vit(
        "vit-small-distilled",
        "small ViT, distilled from a fast ResNet",
        _CPU_DISTILLED,
        part="distillation",
        reference="vit-small-distilled",
    ),
    _vit(
        "vit-small-tiny-imagenet",
        "small ViT on 100 classes of Tiny-ImageNet",
        _CPU_VIT._replace(epochs=4.5),
        data="tiny-imagenet",
        reference="vit-small-tiny-imagenet",
    ),
    _vit(
        "vit-small-finetuned",
        "the same, fine-tuned on CIFAR-10",
        _CPU_SHORT,
        starts_from="vit-small-tiny-imagenet",
        reference="vit-small-finetuned",
    ),
    _vit("vit-small-short", "small ViT from scratch, as long as fine-tuning", _CPU_SHORT, part="pretraining"),
    *_with_less_data("vit-small", "small ViT", "ViT", _CPU_VIT),
    *_with_less_data("resnet-fast", "fast ResNet", "ResNet", _CPU_RESNET),
)

# 10 minutes of one H100, a third of which compiles: no distilled ViT, whose steps would be compiled too.
_GPU_VIT, _GPU_RESNET = _Recipe("cifar10-vit-small-h100", 60), _Recipe("cifar10-quick", 12)
_GPU_SHORT = _GPU_VIT._replace(epochs=10)
_GPU10 = (
    _vit("vit-small-scratch", "small ViT from scratch", _GPU_VIT, reference="vit-small-cifar10"),
    _resnet("resnet-fast-scratch", "fast ResNet from scratch", _GPU_RESNET, reference="resnet-fast-cifar10"),
    *_with_less_data("vit-small", "small ViT", "ViT", _GPU_VIT),
    *_with_less_data("resnet-fast", "fast ResNet", "ResNet", _GPU_RESNET),
    _vit(
        "vit-small-tiny-imagenet",
        "small ViT on 100 classes of Tiny-ImageNet",
        _GPU_VIT._replace(epochs=30),
        data="tiny-imagenet",
        reference="vit-small-tiny-imagenet",
    ),
    _vit(
        "vit-small-finetuned",
        "the same, fine-tuned on CIFAR-10",
        _GPU_SHORT,
        starts_from="vit-small-tiny-imagenet",
        reference="vit-small-finetuned",
    ),
    _vit("vit-small-short", "small ViT from scratch, as long as fine-tuning", _GPU_SHORT, part="pretraining"),
    _resnet(
        "resnet50-scratch",
        "ResNet-50 from scratch",
        _Recipe("cifar10-resnet50-h100", 16),
        reference="resnet50-cifar10",
    ),
    _vit("vit-b16-scratch", "ViT-B/16 from scratch", _Recipe("cifar10-vit-b16-h100", 16), reference="vit-b16-cifar10"),
)

# The whole job. 327 epochs of ViT-B/16 at 224 px are as many operations as 103 epochs of fine-tuning at 384 px.
_FULL_VIT, _FULL_RESNET = _Recipe("cifar10-vit-small", 100), _Recipe("cifar10-resnet50", 200)
_FULL_B16 = _Recipe("cifar10-vit-b16", 100)
_FULL = (
    _vit("vit-small-scratch", "small ViT from scratch", _FULL_VIT, reference="vit-small-cifar10"),
    _resnet("resnet50-scratch", "ResNet-50 from scratch", _FULL_RESNET, reference="resnet50-cifar10"),
    _vit("vit-b16-scratch", "ViT-B/16 from scratch", _FULL_B16, reference="vit-b16-cifar10"),
    _vit(
        "vit-b16-imagenet",
        "ViT-B/16 on two thirds of ImageNet",
        _Recipe("imagenet-vit-b16-130"),
        data="imagenet",
        reference="vit-b16-imagenet",
    ),
    _vit(
        "vit-b16-finetuned",
        "the same, fine-tuned on CIFAR-10",
        _Recipe("finetune-cifar10", 103),
        starts_from="vit-b16-imagenet",
        reference="vit-b16-finetuned",
    ),
    _vit(
        "vit-b16-long",
        "ViT-B/16 from scratch, as long as fine-tuning",
        _FULL_B16._replace(epochs=327),
        part="pretraining",
    ),
    _vit(
        "vit-s16-imagenet",
        "ViT-S/16 on two thirds of ImageNet",
        _Recipe("imagenet-vit-s16-90", 130),
        data="imagenet",
        reference="vit-s16-imagenet",
    ),
    _vit(
        "vit-s16-finetuned",
        "the same, fine-tuned on CIFAR-10",
        _Recipe("finetune-cifar10", 103, arch="vit_s16"),
        starts_from="vit-s16-imagenet",
        reference="vit-s16-finetuned",
    ),
    _vit("vit-small-plain", "small ViT, not distilled", _Recipe("cifar10-vit-small-fast"), part="distillation"),
    _vit(
        "vit-small-distilled",
        "small ViT, distilled from a fast ResNet",
        _Recipe("cifar10-vit-small-distilled"),
        part="distillation",
        reference="vit-small-distilled",
    ),
    *_with_less_data("vit-small", "small ViT", "ViT", _FULL_VIT),
    *_with_less_data("resnet50", "ResNet-50", "ResNet", _FULL_RESNET),
)

SCALES: Mapping[Scale, tuple[Experiment, ...]] = {
    "cpu": _with(_EVALUATED_ONCE, _CPU),
    "gpu10": _with(_EVALUATED_ONCE + _SAVED_ONCE, _GPU10),
    "full": _FULL,
}
