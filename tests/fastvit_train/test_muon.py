"""Muon on matrices and filters."""

import weakref

import pytest
import torch
from torch import nn

from fastvit_train.config import MuonConfig
from fastvit_train.muon import FlatMuon


def updated(weight: torch.Tensor, gradient: torch.Tensor, **options) -> torch.Tensor:
    """The weight after one step at rate 0.1."""
    parameter = nn.Parameter(weight.clone(memory_format=torch.preserve_format))
    optimizer = FlatMuon([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}], MuonConfig(**options))
    parameter.grad = gradient.clone(memory_format=torch.preserve_format)
    optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_filters_are_updated_as_matrices(layout):
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 8, 3, 3, 3)
    expected = updated(weight.flatten(1), gradient.flatten(1)).view_as(weight)
    given = weight.contiguous(memory_format=layout)
    for gradient_layout in (torch.contiguous_format, torch.channels_last):
        result = updated(given, gradient.contiguous(memory_format=gradient_layout))
        assert not torch.equal(result, weight)
        torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)  # the iterations are in bf16


@pytest.mark.parametrize(("in_bf16", "least_error", "largest_error"), [(True, 1e-4, 5e-2), (False, 0, 1e-5)])
def test_it_iterates_in_what_the_device_multiplies(monkeypatch, in_bf16, least_error, largest_error):
    monkeypatch.setattr("fastvit_train.muon.has_bf16_matmul", lambda device: in_bf16)
    torch.manual_seed(0)
    gradient = torch.randn(16, 24)
    change = updated(torch.zeros(16, 24), gradient) / -0.1
    error = (change - newton_schulz(gradient.double(), num_iterations=5)).abs().max()
    assert least_error <= error < largest_error


def newton_schulz(matrix: torch.Tensor, num_iterations: int) -> torch.Tensor:
    """Source: KellerJordan/Muon."""
    matrix = matrix / matrix.norm()
    for _ in range(num_iterations):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrix
    return matrix


def test_an_update_is_about_orthogonal():
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 16, 4, 3, 3)
    change = (weight - updated(weight, gradient)).flatten(1) / 0.1
    singular_values = torch.linalg.svdvals(change)
    assert 0.5 < singular_values.min() < singular_values.max() < 1.5


def test_normalized_weights_have_the_norm_of_the_root_of_their_rows():
    torch.manual_seed(0)
    weight = 100 * torch.randn(16, 4, 3, 3)
    result = updated(weight, torch.randn_like(weight), normalize=True)
    assert result.norm().item() == pytest.approx(4, rel=0.2)


def test_a_weight_without_a_gradient_stays():
    weights = [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 2, 3, 3))]
    optimizer = FlatMuon([{"params": weights, "lr": 0.1, "weight_decay": 0.0}], MuonConfig())
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_gradients_are_let_go_after_a_step():
    weight = nn.Parameter(torch.randn(4, 2, 3, 3))
    optimizer = FlatMuon([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], MuonConfig())
    weight.grad = torch.randn_like(weight)
    memory = weakref.ref(weight.grad.untyped_storage())
    optimizer.step()
    weight.grad = None
    assert memory() is None


def test_the_state_can_be_saved_and_goes_on_with_the_same_bits(tmp_path):
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 3, 3, 3), torch.randn(2, 6, 3, 3, 3)
    group = {"lr": 0.1, "weight_decay": 0.1}

    def step(optimizer, weight, gradient):
        weight.grad = gradient
        optimizer.step()

    weight = nn.Parameter(start.clone())
    optimizer = FlatMuon([{"params": [weight], **group}], MuonConfig())
    step(optimizer, weight, gradients[0])
    torch.save({"optimizer": optimizer.state_dict(), "weight": weight.detach()}, tmp_path / "state.pt")
    step(optimizer, weight, gradients[1])

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = nn.Parameter(state["weight"])
    optimizer = FlatMuon([{"params": [resumed], **group}], MuonConfig())
    optimizer.load_state_dict(state["optimizer"])
    step(optimizer, resumed, gradients[1])
    assert torch.equal(resumed, weight)
