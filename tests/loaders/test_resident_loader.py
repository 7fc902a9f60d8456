"""Backends whose images are on the device already do not wait for it at every batch."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loaders import LoaderConfig, build_loader


class CountingCopies(TorchDispatchMode):
    """Counts copies from the host to the device `meta`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_device = func.overloadpacket is torch.ops.aten._to_copy and args[0].device.type == "cpu"
        self.num_copies += to_device and kwargs.get("device") == torch.device("meta")
        return func(*args, **kwargs)


@pytest.mark.parametrize("backend", ["resident", "synthetic"])
def test_the_order_is_copied_once_an_epoch(raw_set, backend, monkeypatch):
    """A copy from pageable memory waits for all the steps that are queued."""
    noise = torch.empty(8, 3, 32, 32, device="meta")  # that device has no random numbers
    monkeypatch.setattr("loaders.synthetic_loader.SyntheticLoader._noise", lambda self: noise)
    config = LoaderConfig(
        batch_size=8, resolution=32, crop="whole", order="random", drop_last=False, device=torch.device("meta")
    )
    loader = build_loader(backend, raw_set.path, config)
    with CountingCopies() as counting:
        assert [len(batch.index) for batch in loader] == [8] * 6 + [5]
    assert counting.num_copies == 1
    loader.set_epoch(1, skip_batches=7)
    assert list(loader) == []
