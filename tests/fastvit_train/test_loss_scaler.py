"""Gradients of a scaled loss, over several optimizers at once."""

import pytest
import torch
from torch import nn

from fastvit_train.config import MuonConfig, OptimConfig
from fastvit_train.loss_scaler import LossScaler
from fastvit_train.optim import Optimizers, build_optimizer, set_lr

CPU = torch.device("cpu")
OPTIMIZERS = {
    "adamw": OptimConfig(name="adamw"),
    "sgd": OptimConfig(name="sgd"),
    "lamb": OptimConfig(name="lamb"),
    "muon with adamw": OptimConfig(name="muon"),
    "muon with sgd": OptimConfig(name="muon", muon=MuonConfig(rest="sgd")),
}


class Small(nn.Module):
    """Filters that Muon trains as views of them, and weights that it leaves to the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 2)
        self.filters = nn.Conv2d(4, 4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.filters(self.first(images)).mean(dim=(2, 3)))


def start(config: OptimConfig, *, enabled: bool) -> tuple[Small, Optimizers, LossScaler]:
    torch.manual_seed(0)
    model = Small()
    optimizer = build_optimizer(model, config)
    set_lr(optimizer, 1.0)
    return model, optimizer, LossScaler(model, optimizer, CPU, enabled=enabled)


def backward(model: nn.Module, scaler: LossScaler) -> None:
    model.zero_grad()
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    scaler.scale(model(images).square().mean()).backward()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scaled_step_is_the_same_step(name):
    models = []
    for enabled in (True, False):
        model, _, scaler = start(OPTIMIZERS[name], enabled=enabled)
        for _ in range(2):
            backward(model, scaler)
            scaler.unscale()
            models.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
            scaler.step()
        models.append(model.state_dict())
    for scaled, plain in zip(models[:3], models[3:], strict=True):
        for parameter in plain:
            assert torch.equal(scaled[parameter], plain[parameter]), "a power of two rounds nothing"


@pytest.mark.parametrize("overflowing", ["first.weight", "filters.weight", "head.bias"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_gradient_that_overflows_stops_all_optimizers(name, overflowing):
    model, optimizer, scaler = start(OPTIMIZERS[name], enabled=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for factor in (0.5, 0.25):
        backward(model, scaler)
        model.get_parameter(overflowing).grad.flatten()[0] = float("inf")
        scaler.unscale()
        scaler.step()
        assert scaler.read_scale() == factor * 2**16
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(part["state"] for part in optimizer.state_dict()), "no momentum has seen it"
    backward(model, scaler)
    scaler.unscale()
    scaler.step()
    assert not any(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_state_goes_on_with_the_same_scale():
    model, _, scaler = start(OPTIMIZERS["sgd"], enabled=True)
    backward(model, scaler)
    model.head.bias.grad[0] = float("nan")
    scaler.unscale()
    scaler.step()
    _, _, resumed = start(OPTIMIZERS["sgd"], enabled=True)
    resumed.load_state_dict(scaler.state_dict())
    assert resumed.read_scale() == 2**15
    assert resumed.state_dict() == scaler.state_dict()


def test_a_run_that_did_not_scale_leaves_the_scale_as_it_starts():
    _, _, off = start(OPTIMIZERS["sgd"], enabled=False)
    _, _, scaler = start(OPTIMIZERS["sgd"], enabled=True)
    assert off.read_scale() is None
    scaler.load_state_dict(off.state_dict())
    assert scaler.read_scale() == 2**16
    off.load_state_dict(scaler.state_dict())
    assert off.read_scale() is None


def test_gradients_that_are_never_finite_end_the_run():
    model, _, scaler = start(OPTIMIZERS["sgd"], enabled=True)
    for _ in range(33):
        scaler.read_scale()
        backward(model, scaler)
        model.head.bias.grad[0] = float("nan")
        scaler.unscale()
        scaler.step()
    with pytest.raises(ValueError, match=r"overflow float16 at any scale .* a lower --optim\.lr or --precision fp32"):
        scaler.read_scale()
