"""fastvit's batched augmentation in your own loop."""

from collections.abc import Iterator

import torch

from fastvit_train.augment import Augmented, augment
from fastvit_train.config import AugmentConfig
from loaders import ImageLoader


def augmented(
    loader: ImageLoader,
    config: AugmentConfig,
    *,
    epoch: int,
    num_classes: int,
    device: torch.device,
) -> Iterator[Augmented]:
    """The batches of an epoch, augmented and normalised on the device.

    `images` are float32; `targets` are labels, or class probabilities where
    Mixup or CutMix is on.
    """
    generator = torch.Generator(device).manual_seed(epoch)
    loader.set_epoch(epoch)
    for images, labels, index in loader:
        yield augment(
            images.to(device),
            labels.to(device),
            config,
            index=index.to(device),
            epoch=epoch,
            num_classes=num_classes,
            generator=generator,
            dtype=torch.float32,
            compiled=device.type == "cuda",
        )
