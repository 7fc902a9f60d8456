"""The small ResNet of the quick preset."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvit_train.models.resnet_fast import ResNetFast


@pytest.fixture
def images() -> Tensor:
    """Images whose neighbouring pixels and colours go together, as a photo's do, around a mean that is not zero."""
    generator = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.randn(16, 3, 8, 8, generator=generator), size=32, mode="bilinear")
    grey = coarse.mean(1, keepdim=True)
    return coarse + 2 * grey + 0.3 * torch.randn(16, 3, 32, 32, generator=generator) + 0.5


def build(images: Tensor, seed: int = 0) -> ResNetFast:
    torch.manual_seed(seed)
    model = ResNetFast()
    model.init_from_data(images)
    return model


def test_size_and_trainable_parameters():
    model = ResNetFast()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_972_768
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    norms = {f"blocks.{block}.norm{number}.weight" for block in range(3) for number in (1, 2)}
    assert frozen == {"whiten.weight"} | norms


@pytest.mark.parametrize("side", [16, 24, 32, 40, 64])
def test_any_side_gives_logits(side: int):
    assert ResNetFast(num_classes=7)(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_widths_set_the_channels():
    model = ResNetFast(widths=(8, 16, 24, 32)).eval()
    assert [block.conv2.out_channels for block in model.blocks] == [8, 16, 24, 32]
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_shapes_are_those_of_the_docstring(images: Tensor):
    model = ResNetFast().eval()
    shapes = [tuple((features := model.whiten(images[:2])).shape)]
    for block in model.blocks:
        features = block(features)
        shapes.append(tuple(features.shape))
    assert shapes == [(2, 24, 31, 31), (2, 64, 15, 15), (2, 256, 7, 7), (2, 256, 3, 3)]


def test_whitening_leaves_no_correlation(images: Tensor):
    model = build(images)
    with torch.no_grad():
        outputs = model.whiten(images).transpose(0, 1).flatten(1)
    assert torch.equal(outputs[12:], -outputs[:12])
    correlation = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    torch.testing.assert_close(correlation, torch.eye(12), atol=0.02, rtol=0)
    patches = F.unfold(images, 2).transpose(0, 1).flatten(1)
    before = patches @ patches.T / patches.shape[1]
    assert (before - torch.diag(before.diag())).abs().max() > 1  # there was something to whiten


def test_a_direction_without_power_stays_small(images: Tensor):
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    model = build(grey)
    assert model.whiten.weight.isfinite().all()
    with torch.no_grad():
        assert model.whiten(grey).square().mean() < 1.1


def test_whitening_is_not_trained(images: Tensor):
    model = build(images)
    before = model.whiten.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    F.cross_entropy(model(images), torch.arange(16) % 10).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    optimizer.step()
    assert torch.equal(model.whiten.weight, before)
    assert all((block.norm1.weight == 1).all() for block in model.blocks)


def test_convolutions_start_as_the_identity():
    for block in ResNetFast().blocks:
        inputs = torch.randn(2, block.conv2.in_channels, 7, 7)
        torch.testing.assert_close(block.conv2(inputs), inputs)
        inputs = torch.randn(2, block.conv1.in_channels, 7, 7)
        outputs = block.conv1(inputs)
        torch.testing.assert_close(outputs[:, : inputs.shape[1]], inputs)
        assert outputs.shape[1] > inputs.shape[1] or torch.equal(outputs, inputs)


def test_first_logits_are_small(images: Tensor):
    loss = F.cross_entropy(build(images)(images), torch.arange(16) % 10)
    assert loss.item() == pytest.approx(2.303, abs=0.1)


def test_same_seed_same_model(images: Tensor):
    first, second, other = build(images), build(images), build(images, seed=1)
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in states)
    assert torch.equal(first(images), second(images))
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(first.whiten.weight, other.whiten.weight)


@pytest.mark.timeout(60)
def test_bf16_channels_last_learns(images: Tensor):
    model = build(images).to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.85, nesterov=True)
    inputs = images.to(torch.bfloat16, memory_format=torch.channels_last)
    labels = torch.arange(16) % 10
    losses = []
    for _ in range(6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(inputs).float(), labels)
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert all(norm.running_mean.dtype == torch.float32 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
