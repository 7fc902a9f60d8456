"""Batch normalisation on several ranks: statistics that agree, that are shared, or that are left alone."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from fastvit_train.batch_norm import average_statistics, frozen_statistics, synchronize_batch_norm
from fastvit_train.distributed import World

CPU = torch.device("cpu")


class OneOfTwo(World):
    """A rank whose partner has zeros wherever it has numbers itself."""

    def sum(self, values: Tensor) -> Tensor:
        return values


def norms() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4))


def test_statistics_are_averaged_over_the_ranks():
    model = norms()
    model(torch.randn(8, 3, 4, 4))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    average_statistics(model, OneOfTwo(rank=0, world_size=2, device=CPU))
    for name, buffer in model.named_buffers():
        expected = before[name] if name.endswith("num_batches_tracked") else before[name] / 2
        torch.testing.assert_close(buffer, expected)
    average_statistics(nn.Linear(2, 2), OneOfTwo(rank=0, world_size=2, device=CPU))  # has none: nothing to do


def test_frozen_statistics_stay_and_the_weights_still_get_gradients():
    model = norms()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen_statistics(model):
        model(torch.zeros(1, 3, 1, 1)).sum().backward()  # one value per channel: too few for statistics
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_norms_are_synchronized_with_their_weights_and_activations():
    model = norms()
    plain = model.state_dict()
    converted = synchronize_batch_norm(model, World(rank=0, world_size=2, device=torch.device("cuda")))
    assert [isinstance(module, nn.SyncBatchNorm) for module in converted] == [False, True, True]
    assert isinstance(converted[2].act, nn.ReLU)
    assert converted.state_dict().keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in converted.state_dict().items())


def test_one_rank_has_nothing_to_synchronize():
    model = synchronize_batch_norm(norms(), World(rank=0, world_size=1, device=torch.device("cuda")))
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model)


@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        (nn.Linear(3, 4), "cuda", "the model has no batch normalisation; leave it out"),
        (norms(), "cpu", "torch has it for cuda alone, and the device is cpu"),
    ],
)
def test_what_cannot_be_synchronized_is_refused(model, device, message):
    with pytest.raises(ValueError, match=message):
        synchronize_batch_norm(model, World(rank=0, world_size=2, device=torch.device(device)))
