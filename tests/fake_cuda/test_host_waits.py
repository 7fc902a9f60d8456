"""What counts as a wait of the host, and what does not."""

import numpy as np
import pytest
import torch

from fake_cuda.device import DEVICE
from fake_cuda.host_waits import SMALL_BYTES, HostWaitError, no_host_waits


@pytest.fixture
def values(cuda):
    """Fake, on the device."""
    return torch.zeros(8, device=DEVICE)


WAITS = {
    "item": lambda values: values.sum().item(),
    "branch": lambda values: 1 if values.any() else 0,
    "list": lambda values: values.tolist(),
    "equal": lambda values: torch.equal(values, values),
    "mask": lambda values: values[values > 0],
    "mask set": lambda values: values.__setitem__(values > 0, 1.0),
    "nonzero": lambda values: values.nonzero(),
    "unique": lambda values: values.unique(),
    "bincount": lambda values: values.long().bincount(),
    "repeat_interleave": lambda values: torch.repeat_interleave(values, values.long()),
    "eigh": lambda values: torch.linalg.eigh(values.diag()),
    "tensor": lambda values: torch.tensor([1.0, 2.0], device=DEVICE),
    "one value": lambda values: torch.tensor(1.0, device=DEVICE),
    "to cpu": lambda values: values.cpu(),
    "to pageable": lambda values: values.to("cpu", non_blocking=True),
    "to device": lambda values: torch.ones(8).to(DEVICE),
    "from numpy": lambda values: torch.from_numpy(np.ones(8)).to(DEVICE),
    "copy": lambda values: values.copy_(torch.ones(8)),
    "foreach copy": lambda values: torch._foreach_copy_([values], [torch.ones(8)]),
    "large": lambda values: torch.ones(SMALL_BYTES).to(DEVICE, non_blocking=True),
    "index on the cpu": lambda values: values[torch.arange(2)],
    "index in a list": lambda values: values[[0, 1]],
    "device": lambda values: torch.cuda.synchronize(),
    "stream": lambda values: torch.cuda.current_stream().synchronize(),
    "event": lambda values: torch.cuda.Event().synchronize(),
}
NO_WAITS = {
    "arithmetic": lambda values: values * 2 + torch.tensor(1.0),
    "fill": lambda values: torch.full((2,), 3.0, device=DEVICE),
    "where": lambda values: torch.where(values > 0, values, 0),
    "masked_fill": lambda values: values.masked_fill(values > 0, 1.0),
    "gather": lambda values: values[torch.arange(2, device=DEVICE)],
    "repeat_interleave": lambda values: torch.repeat_interleave(values, values.long(), output_size=8),
    "clip": lambda values: torch.nn.utils.clip_grad_norm_([values], 1.0),
    "small": lambda values: torch.ones(8).to(DEVICE, non_blocking=True),
    "pinned": lambda values: torch.empty(SMALL_BYTES, pin_memory=True).to(DEVICE, non_blocking=True),
    "to pinned": lambda values: torch.empty(8, pin_memory=True).copy_(values, non_blocking=True),
    "other stream": lambda values: torch.cuda.Stream(DEVICE).synchronize(),
    "query": lambda values: torch.cuda.Event().query(),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_seen(values, name):
    with pytest.raises(HostWaitError), no_host_waits():
        WAITS[name](values)


@pytest.mark.parametrize("name", NO_WAITS)
def test_what_does_not_wait_passes(values, name):
    with no_host_waits():
        NO_WAITS[name](values)


def test_a_wait_in_the_backward_pass_is_seen(values):
    weights = values.requires_grad_()
    weights.register_hook(lambda gradient: gradient * gradient.norm().item())
    with pytest.raises(HostWaitError), no_host_waits():
        weights.square().sum().backward()


def test_tensors_on_two_devices_do_not_meet(values):
    with pytest.raises(RuntimeError, match="on the same device"):
        values + torch.ones(8)
