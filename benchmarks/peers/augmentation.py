"""The contenders `torchvision`, `torchvision-uint8` and `kornia`: augmentation image by image, and batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fastvit_train.augment import normalize
from fastvit_train.config import AugmentConfig
from loaders.errors import FastvitError, MissingPackageError

__all__ = ["AugmentJob", "Batches", "kornia_batches", "torchvision_batches"]

Batches = Callable[[int], Iterator[Tensor]]
"""Makes so many augmented batches, float32 [b, 3, h, w] on the device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentJob:
    """What each contender is asked for."""

    images: Tensor
    """uint8 [b, 3, h, w], channels_last: a batch, again and again."""
    config: AugmentConfig
    """The policy and the normalisation."""
    device: str
    num_workers: int
    """Worker processes, for those that use them."""
    num_batches: int
    """Of a round, for those that must know."""


class _Transformed(Dataset[Tensor]):
    """One image after another, transformed; without end."""

    def __init__(self, images: Tensor, transform: v2.Transform) -> None:
        self._images = images
        self._transform = transform

    def __getitem__(self, index: int) -> Tensor:
        transformed: Tensor = self._transform(self._images[index % len(self._images)])
        return transformed


def torchvision_batches(job: AugmentJob, *, normalizes: bool) -> Batches:
    """Torchvision in worker processes, which normalise as well or hand over uint8 that is normalised in batches."""
    steps, batch_size = _torchvision_steps(job.config.policy), len(job.images)
    if normalizes:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(job.config.mean), list(job.config.std))]
    loader = DataLoader(
        _Transformed(job.images.contiguous(), v2.Compose(steps)),
        batch_size=batch_size,
        sampler=range(job.num_batches * batch_size),
        num_workers=job.num_workers,
        persistent_workers=True,
        pin_memory=job.device == "cuda",
    )

    def batches(number: int) -> Iterator[Tensor]:
        assert number == job.num_batches
        for batch in loader:
            moved = batch.to(job.device, non_blocking=True)
            yield moved if normalizes else normalize(moved, job.config, torch.float32)

    return batches


def _torchvision_steps(policy: str) -> list[v2.Transform]:
    if policy == "randaugment":
        return [v2.RandAugment(num_ops=2, magnitude=9)]
    if policy == "autoaugment":
        return [v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)]
    if policy == "trivial":
        return [v2.TrivialAugmentWide()]
    one_of_three = [v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), v2.GaussianBlur(13, (0.1, 2.0))]
    return [v2.RandomChoice(one_of_three), v2.ColorJitter(0.3, 0.3, 0.3)]


def kornia_batches(job: AugmentJob) -> Batches:
    """Kornia on the device, which draws one sequence of operations for the whole batch.

    Raises:
        ImportError: kornia is not installed.
        FastvitError: It does not have the policy.
    """
    try:
        from kornia.augmentation import auto
    except ImportError as error:
        raise MissingPackageError(
            f"the contender kornia needs kornia ({error}); install it with: pip install kornia"
        ) from error
    if job.config.policy == "three":
        raise FastvitError("kornia has no 3-Augment: leave it out of --contenders")
    policies = {
        "randaugment": partial(auto.RandAugment, n=2, m=9),
        "autoaugment": partial(auto.AutoAugment, "cifar10"),
        "trivial": auto.TrivialAugment,
    }
    policy = policies[job.config.policy]()
    moments = (job.config.mean, job.config.std)
    mean, std = (torch.tensor(values, device=job.device)[:, None, None] for values in moments)

    images = job.images.to(job.device)

    def batches(number: int) -> Iterator[Tensor]:
        for _ in range(number):
            yield (policy(images.float() / 255) - mean) / std

    return batches
