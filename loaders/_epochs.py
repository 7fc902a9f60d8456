"""What every backend does in the same way: which epoch comes next, and what to say when something is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loaders.config import LoaderConfig
from loaders.contract import BadSample
from loaders.errors import FastvitError, reason_of
from loaders.order import BatchPlan
from loaders.records import ImageRecords


def bad_sample(records: ImageRecords, index: int, error: Exception) -> BadSample:
    """A sample that decoding failed for, with the error's first line: after it, torch lists a stack of C++ calls."""
    return BadSample(index, records.name(index), reason_of(error))


def loader_closed() -> FastvitError:
    """What a loader raises that is asked for an epoch after `close`."""
    return FastvitError("the loader is closed; build another one")


def epoch_ended() -> FastvitError:
    """What an iterator that is still held raises once its epoch is not the loader's any more."""
    return FastvitError("this epoch was ended before its last batch: its loader was closed or iterated again")


class PlannedEpochs:
    """The part of an `ImageLoader` that does not depend on how samples are made.

    `_config` is what it was built with, at the resolution of the epoch that `set_epoch` chose.
    """

    def __init__(self, config: LoaderConfig, *, num_samples: int) -> None:
        self._plan: BatchPlan = config.plan(num_samples)
        self._config = config
        self._epoch = 0
        self._skip_batches = 0
        self.skipped: list[BadSample] = []

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        """See `ImageLoader.set_epoch`."""
        self._epoch = epoch
        if resolution is not None:
            self._config = replace(self._config, resolution=resolution)
        self._skip_batches = skip_batches
        self.skipped = []

    def __len__(self) -> int:
        return self._plan.num_batches

    def _planned(self) -> Iterator[NDArray[np.int64]]:
        """The samples of each batch of the epoch that `set_epoch` chose; `BatchPlan.images` has their indices."""
        return self._plan.batches(self._epoch, skip=self._skip_batches)

    def _on_device(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """The same indices on the config's device, copied at once: a copy waits for all that the device has to do."""
        if batches:
            indices = torch.from_numpy(np.concatenate(batches)).to(self._config.device)
            yield from torch.split(indices, [len(batch) for batch in batches])
