"""What the reference experiments are compared with: the course project's own figures and the best published ones.

It needs nothing but Python, so that documents are made from rows where there is no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What others reached in an experiment's task."""

    title: str
    """The task, for people."""
    data: Literal["CIFAR-10", "ImageNet", "Tiny-ImageNet"] = "CIFAR-10"
    """What the accuracy is measured on."""
    project: str = ""
    """The course project's top-1 accuracy; empty where it had no such experiment."""
    best: str = "none comparable"
    """The best published top-1 accuracy."""
    source: str = ""
    """Whose figure it is, and where it stands."""
    remark: str
    """How it was reached and how the task differs, or why there is none."""

    @property
    def best_and_source(self) -> str:
        """The best figure and whose it is."""
        return f"{self.best} ({self.source})" if self.source else self.best


_ALL_OF_IMAGENET = "all of ImageNet"

PUBLISHED: Mapping[str, Published] = {
    "vit-small-cifar10": Published(
        title="Small ViT, CIFAR-10, from scratch",
        project="82 %",
        best="93.6 %",
        source="SPT_LSA_ViT, arXiv 2112.13492",
        remark="A plain ViT of 2.8 million parameters (the one here has 10.7 million), 100 epochs, each of which has "
        "every image three times.",
    ),
    "vit-small-distilled": Published(
        title="Small ViT, CIFAR-10, taught by a fast ResNet",
        remark="The method is that of DeiT (arXiv 2012.12877), which reports ImageNet. No figure was found for a ViT "
        "of this size whose teacher had seen CIFAR-10 alone.",
    ),
    "resnet-fast-cifar10": Published(
        title="Fast ResNet, CIFAR-10, from scratch",
        best="94.01 %",
        source="airbench94, arXiv 2404.00498",
        remark="The same network, averaged over flips and shifts. A larger network of the same paper has 96.05 %.",
    ),
    "resnet50-cifar10": Published(
        title="ResNet-50, CIFAR-10, from scratch",
        project="93\N{EN DASH}95 %",
        best="95.55 %",
        source="MMPreTrain, github.com/open-mmlab/mmpretrain",
        remark="With a 3 × 3 stem, 200 epochs; the table is in configs/resnet.",
    ),
    "vit-b16-cifar10": Published(
        title="ViT-B/16, CIFAR-10, from scratch, 224 px",
        project="85 %",
        best="98.5 %",
        source="DeiT, arXiv 2012.12877",
        remark="Section 5.4: 7,200 epochs, as many images as 300 epochs of ImageNet have.",
    ),
    "vit-b16-imagenet": Published(
        title="ViT-B/16, two thirds of ImageNet, 130 epochs",
        data="ImageNet",
        project="84 % train / 56 % val",
        best="84.2 %",
        source=f"ViT-5, arXiv 2602.08071, {_ALL_OF_IMAGENET}",
        remark="A ViT of this size with five years of small changes. The plain one has 83.8 % after 800 epochs "
        "(DeiT III, arXiv 2204.07118). Both saw the whole of ImageNet; no figure was found for two thirds of it.",
    ),
    "vit-b16-finetuned": Published(
        title="ViT-B/16, fine-tuned on CIFAR-10",
        project="95 %",
        best="99.4 %",
        source=f"POA, arXiv 2408.01031, {_ALL_OF_IMAGENET}",
        remark="Table 12: pretrained without labels. Pretrained with them, it is 99.1 % (DeiT, arXiv 2012.12877, "
        "section 5.4).",
    ),
    "vit-s16-imagenet": Published(
        title="ViT-S/16, two thirds of ImageNet, 130 epochs",
        data="ImageNet",
        best="81.4 %",
        source=f"DeiT III, arXiv 2204.07118, {_ALL_OF_IMAGENET}",
        remark="800 epochs. A plainer recipe has 76.5 % after 90 epochs, 78.5 % after 150 and 80.0 % after 300 "
        "(arXiv 2205.01580). All of them saw the whole of ImageNet.",
    ),
    "vit-s16-finetuned": Published(
        title="ViT-S/16, fine-tuned on CIFAR-10",
        best="99.1 %",
        source=f"POA, arXiv 2408.01031, {_ALL_OF_IMAGENET}",
        remark="Table 12: pretrained without labels.",
    ),
    "vit-small-tiny-imagenet": Published(
        title="Small ViT, 100 classes of Tiny-ImageNet at 32 px",
        data="Tiny-ImageNet",
        remark="Published figures are for all 200 classes at 64 px.",
    ),
    "vit-small-finetuned": Published(
        title="Small ViT, pretrained on Tiny-ImageNet, fine-tuned on CIFAR-10",
        remark="Published fine-tuning starts from ImageNet.",
    ),
}
"""By the `reference` of an experiment."""
