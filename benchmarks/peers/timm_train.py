"""The contenders `timm…`: what each step of timm's train.py does, from timm's own parts.

The script is not part of the package. Its `train_one_epoch` (huggingface/pytorch-image-models, train.py) reads the loss
after every step and, by default, trains in float32 with Nesterov SGD on batches from `create_loader` with four workers,
random resized crops and colour jitter. `--amp` is float16 autocast where `--amp-dtype` says nothing else.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastvit_train.config import Config
from fastvit_train.data import build_loaders
from fastvit_train.distributed import start_world
from fastvit_train.models import build_model, set_patch_drop
from fastvit_train.schedule import phase_of

__all__ = ["AMP_DTYPES", "TimmTraining", "timm_training"]

AMP_DTYPES = {"timm": None, "timm-amp": torch.float16, "timm-amp-bf16": torch.bfloat16}
"""The precisions: train.py's default, its --amp, and that with --amp-dtype bfloat16."""

_WORKERS = 4


class _InMemory(Dataset[tuple[Any, int]]):
    """Decoded images, transformed one by one; `create_loader` sets the transform."""

    transform: Callable[[Image.Image], Any]

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self._images[index])), int(self._labels[index])


class TimmTraining:
    """timm's training of a model, some steps at a time.

    Args:
        model: On its device.
        images: uint8 [n, side, side, 3], in memory already: timm is not charged for reading and decoding.
        labels: int64 [n].
        batch_size: Images per step.
        device: The model's.
        amp_dtype: What autocast computes in; None trains in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        device: torch.device,
        amp_dtype: torch.dtype | None,
    ) -> None:
        self._model = model.train()
        self._loss = LabelSmoothingCrossEntropy(0.1)
        self._optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
        self._autocast: Callable[[], AbstractContextManager[object]] = (
            nullcontext if amp_dtype is None else partial(torch.autocast, device.type, dtype=amp_dtype)
        )
        side = images.shape[1]
        self._loader = create_loader(
            _InMemory(images, labels),
            input_size=(3, side, side),
            batch_size=batch_size,
            is_training=True,
            color_jitter=0.4,
            num_workers=_WORKERS,
            persistent_workers=False,
            device=device,
        )

    def start(self) -> int:
        """Have the workers make their first batches."""
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(self._loader)
        return len(next(self._batches)[0])

    def steps(self, number: int) -> int:
        """Train for so many steps, then let the workers go; returns how many images that were."""
        num_images = 0
        for _ in range(number):
            images, labels = next(self._batches)
            with self._autocast():
                loss = self._loss(self._model(images), labels)
            loss.backward()
            self._optimizer.step()
            loss.item()
            self._optimizer.zero_grad()
            num_images += len(images)
        del self._batches
        return num_images


def timm_training(config: Config, *, epoch: int, num_steps: int, amp_dtype: torch.dtype | None) -> TimmTraining:
    """Timm's training of the model and the images that a run of ours has in an epoch, in rounds of so many steps."""
    phase = phase_of(config, epoch)
    with start_world(config.device) as world:
        loader, _, num_classes = build_loaders(config, world)
        loader.set_epoch(0, resolution=phase.resolution)
        batches = list(islice(loader, num_steps + 1))
        loader.close()
    model = build_model(
        config.arch,
        num_classes=num_classes,
        resolution=config.data.resolution,
        config=replace(config.model, bf16_residual=False),
        phases=config.phases,
    ).to(world.device)
    set_patch_drop(model, phase.patch_drop)
    return TimmTraining(
        model,
        torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).cpu().numpy(),
        torch.cat([batch.labels for batch in batches]).cpu().numpy(),
        batch_size=config.batch_size,
        device=world.device,
        amp_dtype=amp_dtype,
    )
