"""Muon on matrices and filters."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastvit_train.config import MuonConfig
from fastvit_train.muon import Muon
from fastvit_train.optim import Optimizers

# Several of one shape, its transpose, and one that is alone with its shape.
SHAPES = [(24, 16), (16, 24), (24, 16), (16, 16), (8, 4, 3, 3), (8, 4, 3, 3), (40, 4, 3, 3), (16, 24)]
GROUP = {"lr": 0.1, "weight_decay": 0.1}


def updated(weight: torch.Tensor, gradient: torch.Tensor, **options) -> torch.Tensor:
    """The weight after one step at rate 0.1."""
    parameter = nn.Parameter(weight.clone(memory_format=torch.preserve_format))
    optimizer = Muon([{"params": [parameter], "lr": 0.1, "weight_decay": 0.0}], MuonConfig(**options))
    parameter.grad = gradient.clone(memory_format=torch.preserve_format)
    optimizer.step()
    return parameter.detach()


def random_weights(device: str = "cpu") -> list[nn.Parameter]:
    torch.manual_seed(0)
    weights = [torch.randn(shape).to(device) for shape in SHAPES]
    channels_last = [
        weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight for weight in weights
    ]
    return [nn.Parameter(weight) for weight in channels_last]


def set_gradients(weights: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in weights:
        gradient = 0.01 * torch.randn(weight.shape, generator=generator).to(weight.device)
        weight.grad = torch.empty_like(weight).copy_(gradient)


class OneByOne:
    """torch's Muon over weights whose filters it sees as matrices."""

    def __init__(self, weights: list[nn.Parameter], config: MuonConfig) -> None:
        self.weights = weights
        self.matrices = [nn.Parameter(as_matrix(weight.detach())) for weight in weights]
        self.normalize = config.normalize
        self.optimizer = torch.optim.Muon(
            [{"params": self.matrices, **GROUP}], momentum=config.momentum, ns_steps=config.num_iterations
        )

    @torch.no_grad()
    def step(self) -> None:
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad)
            if self.normalize and matrix.grad is not None:
                matrix.mul_(len(matrix) ** 0.5 / matrix.norm())
        self.optimizer.step()


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


@pytest.mark.parametrize(("in_bf16", "largest_error"), [(True, 2e-2), (False, 2e-6)])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_updates_are_those_of_torch(monkeypatch, in_bf16, largest_error, normalize):
    monkeypatch.setattr("fastvit_train.muon.has_bf16_matmul", lambda device: in_bf16)
    if not in_bf16:  # with which torch's begins its iterations
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    config = MuonConfig(momentum=0.8, num_iterations=4, normalize=normalize)
    weights, expected = random_weights(), random_weights()
    batched, one_by_one = Muon([{"params": weights, **GROUP}], config), OneByOne(expected, config)
    for step in range(4):
        before = [weight.detach().clone() for weight in expected]
        for each in (weights, expected):
            set_gradients(each, step)
            each[step].grad = None
        batched.step()
        one_by_one.step()
        for number, (weight, wanted, old) in enumerate(zip(weights, expected, before, strict=True)):
            assert (weight - wanted).norm() <= largest_error * (wanted - old).norm() + 1e-6, (step, number)


def test_the_state_of_torchs_muon_can_be_loaded():
    config = MuonConfig(momentum=0.8)
    expected = random_weights()
    one_by_one = OneByOne(expected, config)
    set_gradients(expected, 0)
    one_by_one.step()
    weights = [nn.Parameter(weight.detach().clone()) for weight in expected]
    optimizers = Optimizers(Muon([{"params": weights, **GROUP}], config))
    optimizers.load_state_dict([one_by_one.optimizer.state_dict()])
    for each, step in ((weights, optimizers.step), (expected, one_by_one.step)):
        set_gradients(each, 1)
        step()
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, wanted, atol=2e-3, rtol=0)


def test_there_are_no_more_launches_with_more_matrices_of_a_shape():
    counts = []
    for times in (1, 3):
        weights = [weight for _ in range(times) for weight in random_weights()]
        optimizer = Muon([{"params": weights, **GROUP}], MuonConfig(num_iterations=4, normalize=True))
        for step in range(2):  # the first one makes the momentum
            set_gradients(weights, step)
            with _Launches() as launches:
                optimizer.step()
        counts.append(launches.count)
    assert counts[0] == counts[1]


class _Launches(TorchDispatchMode):
    """Counts operations that are not just views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("normalize", [False, True])
def test_a_rate_may_be_a_tensor(normalize):
    config = MuonConfig(normalize=normalize)
    weights, expected = random_weights(), random_weights()
    rate = torch.tensor(0.1)
    with_tensor, with_number = (
        Muon([{"params": weights, **GROUP, "lr": rate}], config),
        Muon([{"params": expected, **GROUP}], config),
    )
    for step, lr in enumerate((0.1, 0.03)):
        rate.fill_(lr)
        with_number.param_groups[0]["lr"] = lr
        for each, optimizer in ((weights, with_tensor), (expected, with_number)):
            set_gradients(each, step)
            optimizer.step()
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, wanted, atol=1e-6, rtol=1e-6)


def test_a_step_reads_nothing_on_the_host():
    weights = random_weights("meta")  # where nothing can be read
    rate = torch.tensor(0.1, device="meta")
    optimizer = Muon([{"params": weights, **GROUP, "lr": rate}], MuonConfig(normalize=True))
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer.step()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate


@pytest.fixture
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize(("in_bf16", "largest_error"), [(True, 3e-2), (False, 1e-4)])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_gpu_makes_the_updates_of_the_cpu(monkeypatch, in_bf16, largest_error, normalize):
    monkeypatch.setattr("fastvit_train.muon.has_bf16_matmul", lambda device: in_bf16)
    config = MuonConfig(num_iterations=4, normalize=normalize)
    weights, expected = random_weights("cuda"), random_weights()
    optimizers = [Muon([{"params": each, **GROUP}], config) for each in (weights, expected)]
    for step in range(3):
        changes = []
        for each, optimizer in zip((weights, expected), optimizers, strict=True):
            before = [weight.detach().clone() for weight in each]
            set_gradients(each, step)
            each[step].grad = None
            optimizer.step()
            changes.append([(weight - old).cpu() for weight, old in zip(each, before, strict=True)])
        for change, wanted in zip(*changes, strict=True):
            assert (change - wanted).norm() <= largest_error * wanted.norm()


@pytest.mark.gpu
def test_a_cuda_graph_of_a_step_follows_the_rate():
    rate = torch.tensor(0.1, device="cuda")
    weights, expected = random_weights("cuda"), random_weights("cuda")
    captured = Muon([{"params": weights, **GROUP, "lr": rate}], MuonConfig())
    plain = Muon([{"params": expected, **GROUP}], MuonConfig())
    graph = torch.cuda.CUDAGraph()
    for step, lr in enumerate((0.1, 0.03, 0.2)):
        set_gradients(expected, step)
        rate.fill_(lr)
        plain.param_groups[0]["lr"] = lr
        plain.step()
        if step == 0:  # the step that makes the momentum
            set_gradients(weights, step)
            captured.step()
            with torch.cuda.graph(graph):
                captured.step()
        else:
            for weight, other in zip(weights, expected, strict=True):
                weight.grad.copy_(other.grad)
            graph.replay()
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, wanted, atol=2e-3, rtol=0)


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
    optimizer = Muon([{"params": weights, "lr": 0.1, "weight_decay": 0.0}], MuonConfig())
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_a_gradient_of_zeros_changes_nothing():
    weight = torch.randn(4, 6)
    assert torch.equal(updated(weight, torch.zeros(4, 6)), weight)


def test_gradients_are_let_go_after_a_step():
    weight = nn.Parameter(torch.randn(4, 2, 3, 3))
    optimizer = Muon([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], MuonConfig())
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
    optimizer = Muon([{"params": [weight], **group}], MuonConfig())
    step(optimizer, weight, gradients[0])
    torch.save({"optimizer": optimizer.state_dict(), "weight": weight.detach()}, tmp_path / "state.pt")
    step(optimizer, weight, gradients[1])

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = nn.Parameter(state["weight"])
    optimizer = Muon([{"params": [resumed], **group}], MuonConfig())
    optimizer.load_state_dict(state["optimizer"])
    step(optimizer, resumed, gradients[1])
    assert torch.equal(resumed, weight)
