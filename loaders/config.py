"""What to load and how: the options that every backend takes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from loaders import _native
from loaders.crop import Crop, Crops, Interpolation, crop_boxes, random_flips, random_shifts
from loaders.option_checks import check_types, require
from loaders.order import BatchPlan, Order
from loaders.orientation import ExifOrientation

# torch takes seconds to import, which `fastvit-train --help` must not wait for: it is only named here.
if TYPE_CHECKING:
    import torch

__all__ = ["LoaderConfig"]


def _cpu() -> "torch.device":
    import torch

    return torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig:
    """What to load and how, the same for every backend.

    Raises:
        FastvitError: An option is outside its range; the message names it and its value.

    Examples:
        What a training run and its validation load; `dataclasses.replace` makes the one from the other:

        >>> from dataclasses import replace
        >>> from loaders import LoaderConfig
        >>> training = LoaderConfig(
        ...     batch_size=256, resolution=224, crop="random_resized", order="random", drop_last=True, seed=1
        ... )
        >>> validation = replace(training, crop="center", order="sequential", drop_last=False)
        >>> training.device
        device(type='cpu')
        >>> replace(training, resolution=0)
        Traceback (most recent call last):
        loaders.errors.FastvitError: resolution must be positive, got 0
    """

    batch_size: int
    """Images per rank and batch."""
    resolution: int
    """Side of the images handed over, in pixels."""
    crop: Crop
    """`random_resized` (with random flips), `center`, `whole`: resize without keeping the aspect ratio, or `shift`: as
    `whole`, then a random flip and a random shift."""
    order: Order
    """`random`, `quasi_random` (for data larger than memory) or `sequential`."""
    drop_last: bool
    """Leave out the last batch where it is not full."""
    seed: int = 0
    """Decides order, crops and flips, together with the epoch."""
    rank: int = 0
    """Which slice of each global batch is ours."""
    world_size: int = 1
    """Number of ranks."""
    num_workers: int | None = None
    """Threads that decode, or processes with `torch`; None is one for each CPU that this process may use
    (`automatic_workers` in cpus.py). 0 is for `torch` alone, which then decodes in the caller's process."""
    device: "torch.device" = field(default_factory=_cpu)
    """Where batches are wanted; backends that work on the CPU hand over CPU batches all the same."""
    on_error: Literal["raise", "skip"] = "raise"
    """A sample that cannot be decoded ends the epoch by name, or leaves its batch and is listed in `skipped`."""
    area: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image's area, for `random_resized`."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, for `random_resized`."""
    center_fraction: float = 224 / 256
    """Share of the short side that `center` keeps."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize, antialiased as Pillow and torchvision do it: `bilinear` or `bicubic`; `ffcv` has neither
    and refuses the second."""
    exif_orientation: ExifOrientation = "ignore"
    """`ignore` takes images as they are stored, as FFCV and torchvision do; `apply` turns them upright first, as their
    EXIF data says, so that crops and flips are of the image as it is to be seen. `ffcv` refuses `apply`."""
    repeats: int = 1
    """Times that each image comes in a batch over all ranks, each with its own crop and flip; see `BatchPlan`."""
    max_shift: int = 4
    """How far `shift` moves the image at most, in pixels of the image handed over; the border is reflected."""
    prefetch_batches: int = 2
    """Batches that `native`, `dali` and `nvjpeg` make ahead of the one that they handed over."""
    decode: Literal["auto", "cpu", "mixed"] = "auto"
    """Where `dali` decodes: `cpu`, `mixed` (on the GPU), or `auto`: on the GPU where `device` is one."""
    scaled_decode: bool = False
    """`native` decodes a JPEG at 1/2, 1/4 or 1/8 of its size where the crop is at least so much larger than
    `resolution`: faster, but the pixels differ from those of a full decode."""

    def __post_init__(self) -> None:
        import torch

        check_types(self)
        require(isinstance(self.device, torch.device), "device", "be a torch.device", repr(self.device))
        for name in ("resolution", "batch_size", "world_size", "prefetch_batches", "repeats"):
            require(getattr(self, name) > 0, name, "be positive", getattr(self, name))
        require(0 <= self.seed < 2**64, "seed", "lie in [0, 2^64)", self.seed)
        require(0 <= self.rank < self.world_size, "rank", f"lie in [0, world_size={self.world_size})", self.rank)
        require(self.num_workers is None or self.num_workers >= 0, "num_workers", "not be negative", self.num_workers)
        require(0 < self.center_fraction <= 1, "center_fraction", "lie in (0, 1]", self.center_fraction)
        for name, (low, high) in {"area": self.area, "ratio": self.ratio}.items():
            require(0 < low <= high, name, "be a range of positive numbers", (low, high))
        require(self.area[1] <= 1, "area", "end at 1 or below", self.area)
        require(
            self.max_shift >= 0 and (self.crop != "shift" or 2 * self.max_shift < self.resolution),
            "max_shift",
            f"lie in [0, {self.resolution / 2:g}), below half the resolution",
            self.max_shift,
        )

    def crops(
        self, samples: NDArray[np.int64], *, heights: NDArray[np.int64], widths: NDArray[np.int64], epoch: int
    ) -> Crops:
        """What to cut out of images, and what to do with it.

        Args:
            samples: int64 [b], as `BatchPlan.batches` gives them: positions in the dataset, unless images repeat.
            heights: int64 [b], of the samples' images, in pixels.
            widths: int64 [b], in pixels.
            epoch: The epoch.

        Examples:
            >>> import numpy as np
            >>> from loaders import LoaderConfig
            >>> config = LoaderConfig(batch_size=2, resolution=224, crop="center", order="sequential", drop_last=False)
            >>> crops = config.crops(np.array([0, 1]), heights=np.array([256, 99]), widths=np.array([256, 99]), epoch=0)
            >>> crops.boxes
            array([[ 16,  16, 224, 224],
                   [  6,   6,  87,  87]], dtype=int32)
        """
        boxes = crop_boxes(
            self.crop,
            indices=samples,
            heights=heights,
            widths=widths,
            seed=self.seed,
            epoch=epoch,
            area=self.area,
            ratio=self.ratio,
            center_fraction=self.center_fraction,
        )
        flips, shifts = np.zeros(len(samples), np.bool_), np.zeros((len(samples), 2), np.int32)
        if self.crop in ("random_resized", "shift"):
            flips = random_flips(indices=samples, seed=self.seed, epoch=epoch)
        if self.crop == "shift":
            shifts = random_shifts(indices=samples, seed=self.seed, epoch=epoch, max_shift=self.max_shift)
        return Crops(boxes, flips, shifts)

    def crop_rule(self, epoch: int) -> _native.CropRule:
        """What `crops` draws and how it is resized, for the C++ engine."""
        return _native.CropRule(
            self.crop,
            resolution=self.resolution,
            seed=self.seed,
            epoch=epoch,
            area=self.area,
            ratio=self.ratio,
            center_fraction=self.center_fraction,
            max_shift=self.max_shift,
            interpolation=self.interpolation,
            turns_upright=self.exif_orientation == "apply",
        )

    def plan(self, size: int) -> BatchPlan:
        """The batches of this rank over a dataset of `size` samples.

        Raises:
            FastvitError: No batch can be made: see `BatchPlan`.
        """
        return BatchPlan(
            order=self.order,
            size=size,
            seed=self.seed,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            rank=self.rank,
            world_size=self.world_size,
            repeats=self.repeats,
        )
