"""The contenders `timm…`: what each step of timm's train.py does, from timm's own parts.

The script is not part of the package. Its `train_one_epoch` (huggingface/pytorch-image-models, train.py) reads the loss
after every step and, by default, trains in float32 with Nesterov SGD on batches from `create_loader`, with random
resized crops and colour jitter. It has as many `--workers` as our loader has threads. `--amp` is float16 autocast where
`--amp-dtype` says nothing else; `--grad-accum-steps` computes a batch in parts, as our `--accumulate` does: here as
many as ours would take in that precision.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastvit_train.accumulation import resolve_accumulate
from fastvit_train.config import Config
from fastvit_train.data import build_loaders
from fastvit_train.device import has_bf16_matmul
from fastvit_train.distributed import start_world
from fastvit_train.models import build_model, set_patch_drop
from fastvit_train.schedule import phase_of

__all__ = ["TIMM_OPTIONS", "TimmOptions", "TimmTraining", "timm_training"]

_DIFFERENT_BATCHES = 2
_MOST_BATCHES = 10_000


class TimmOptions(NamedTuple):
    """Options of train.py."""

    amp_dtype: torch.dtype | None
    """What autocast computes in; None trains in float32."""
    is_fastest: bool = False
    """--torchcompile and --channels-last, and float32 where the device has no matmuls in amp_dtype."""


TIMM_OPTIONS = {
    "timm": TimmOptions(None),
    "timm-amp": TimmOptions(torch.float16),
    "timm-amp-bf16": TimmOptions(torch.bfloat16),
    "timm-compiled": TimmOptions(torch.bfloat16, is_fastest=True),
}
"""The contenders: train.py's default, its --amp, that with --amp-dtype bfloat16, and all that is fast."""


class _InMemory(Dataset[tuple[Any, int]]):
    """Decoded images, again and again, transformed one by one; `create_loader` sets the transform."""

    transform: Callable[[Image.Image], Any]

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], *, length: int) -> None:
        self._images = images
        self._labels = labels
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        index %= len(self._images)
        return self.transform(Image.fromarray(self._images[index])), int(self._labels[index])


class TimmTraining:
    """timm's training of a model, some steps at a time.

    Args:
        model: On its device.
        images: uint8 [n, side, side, 3], in memory already: timm is not charged for reading and decoding.
        labels: int64 [n].
        batch_size: Images per step.
        accumulate: Parts that a step is computed in.
        device: The model's.
        num_workers: Processes that transform images.
        options: Those of train.py.
    """

    def __init__(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        accumulate: int,
        device: torch.device,
        num_workers: int,
        options: TimmOptions,
    ) -> None:
        self._model = model.train()
        if options.is_fastest:
            self._model = self._model.to(memory_format=torch.channels_last)
            self._model.compile()
        self._memory_format = torch.channels_last if options.is_fastest else torch.contiguous_format
        self._accumulate = accumulate
        self._loss = LabelSmoothingCrossEntropy(0.1)
        self._optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
        self._autocast: Callable[[], AbstractContextManager[object]] = (
            nullcontext if options.amp_dtype is None else partial(torch.autocast, device.type, dtype=options.amp_dtype)
        )
        side = images.shape[1]
        self._loader = create_loader(
            _InMemory(images, labels, length=_MOST_BATCHES * batch_size),
            input_size=(3, side, side),
            batch_size=batch_size // accumulate,
            is_training=True,
            color_jitter=0.4,
            num_workers=num_workers,
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
            for images, labels in islice(self._batches, self._accumulate):
                with self._autocast():
                    logits = self._model(images.contiguous(memory_format=self._memory_format))
                    loss = self._loss(logits, labels)
                (loss / self._accumulate).backward()
                num_images += len(images)
            self._optimizer.step()
            loss.item()
            self._optimizer.zero_grad()
        del self._batches
        return num_images


def timm_training(config: Config, *, epoch: int, num_workers: int, options: TimmOptions) -> TimmTraining:
    """Timm's training of the model and the images that a run of ours has in an epoch."""
    phase = phase_of(config, epoch)
    with start_world(config.device) as world:
        loader, _, num_classes = build_loaders(config, world)
        loader.set_epoch(0, resolution=phase.resolution)
        batches = list(islice(loader, _DIFFERENT_BATCHES))
        loader.close()
        model = build_model(
            config.arch,
            num_classes=num_classes,
            resolution=config.data.resolution,
            config=replace(config.model, bf16_residual=False),
            phases=config.phases,
        ).to(world.device)
        if options.is_fastest and not has_bf16_matmul(world.device):
            options = options._replace(amp_dtype=None)
        accumulate = resolve_accumulate(config, model, world, dtype=options.amp_dtype or torch.float32)
    set_patch_drop(model, phase.patch_drop)
    return TimmTraining(
        model,
        torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).cpu().numpy(),
        torch.cat([batch.labels for batch in batches]).cpu().numpy(),
        batch_size=config.batch_size,
        accumulate=accumulate,
        device=world.device,
        num_workers=num_workers,
        options=options,
    )
