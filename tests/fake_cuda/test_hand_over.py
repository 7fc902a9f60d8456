"""Batches on their way from a loader to a pretended CUDA device: the host waits for none of the steps before them."""

from collections.abc import Iterator

import pytest
from torch._subclasses.fake_tensor import unset_fake_temporarily

from fake_cuda.device import DEVICE, STREAM
from fake_cuda.fake_runs import FakeLoader, fake_batch
from fake_cuda.host_waits import HostWaitError, no_host_waits
from fastvit_train.prefetch import Prefetcher, _copy_stream
from loaders import Batch, ImageLoader, LoaderConfig, build_loader

NUM_BATCHES = 6


class OfRealTensors:
    """A loader that works on the CPU, where it wants to see values."""

    def __init__(self, loader: ImageLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while True:
            with unset_fake_temporarily():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@pytest.fixture
def loader(request, cuda, raw_set):
    """Of batches that are too large to be copied without waiting from memory that is not pinned."""
    config = LoaderConfig(
        batch_size=8, resolution=128, crop="whole", order="random", drop_last=True, device=DEVICE, num_workers=1
    )
    loader = build_loader(request.param, raw_set.path, config)
    yield OfRealTensors(loader) if request.param == "native" else loader
    loader.close()


@pytest.mark.parametrize("loader", ["native", "resident", "synthetic"], indirect=True)
def test_a_batch_is_handed_over_without_waiting_for_a_step(loader):
    batches = iter(Prefetcher(loader, DEVICE))
    next(batches)  # the first one of an epoch may wait
    with no_host_waits():
        others = list(batches)
    assert len(others) == NUM_BATCHES - 1
    assert all(tensor.device == DEVICE for batch in others for tensor in batch)


@pytest.mark.parametrize("loader", ["native"], indirect=True)
def test_a_hand_over_that_comes_after_the_step_is_seen(loader):
    batches = iter(Prefetcher(loader, DEVICE))
    next(batches)
    _copy_stream(DEVICE).wait_stream(STREAM)
    with pytest.raises(HostWaitError, match="a stream that comes after the step"), no_host_waits():
        next(batches)


def test_a_batch_that_is_on_the_device_is_not_copied(cuda):
    made = [fake_batch(8, 32) for _ in range(3)]
    given = list(Prefetcher(FakeLoader(*made), DEVICE))
    assert [[id(part) for part in batch] for batch in given] == [[id(part) for part in batch] for batch in made]
