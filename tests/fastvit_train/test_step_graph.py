"""Steps from a graph are the steps that they were recorded from."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from fastvit_train import checkpoint
from fastvit_train.config import AugmentConfig, Config, ModelConfig, MuonConfig, OptimConfig
from fastvit_train.data import build_loaders
from fastvit_train.distributed import World
from fastvit_train.metrics import read_metrics
from fastvit_train.run import Run
from fastvit_train.schedule import Phase
from fastvit_train.step_graph import WARM_UP_STEPS, CudaRecorder, StepGraph, can_make_graphs
from fastvit_train.step_timer import FIRST_STEPS
from fastvit_train.train import train, train_step
from loaders.errors import FastvitError
from runs import LeavingOut, same
from step_recorder import StepRecorder

CPU = torch.device("cpu")

EVERYTHING = AugmentConfig(
    flip="alternating",
    shift=2,
    policy="randaugment",
    color_jitter=0.3,
    erasing_probability=0.25,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
)


class Outcome(NamedTuple):
    """What a run leaves."""

    state: dict[str, Any]
    losses: list[tuple[int, float]]


def outcome(folder: Path) -> Outcome:
    lines = read_metrics(folder / "metrics.jsonl")
    return Outcome(checkpoint.load(folder / "checkpoint.pt"), [(line["step"], line["loss"]) for line in lines])


def assert_same(mine: Outcome, other: Outcome) -> None:
    assert mine.losses == other.losses
    assert same(mine.state["model"], other.state["model"])
    if other.state["ema"] is not None:
        assert same(mine.state["ema"], other.state["ema"])
        assert not same(mine.state["ema"], mine.state["model"])
    for part, state in zip(mine.state["optimizer"], other.state["optimizer"], strict=True):
        assert part["param_groups"] == state["param_groups"]
        for number, values in state["state"].items():
            assert all(torch.equal(value, part["state"][number][name]) for name, value in values.items())
    assert all(map(torch.equal, mine.state["random_states"][0].values(), other.state["random_states"][0].values()))


@pytest.fixture
def recorders(monkeypatch) -> list[StepRecorder]:
    """From here on, steps are recorded and replayed; the recorders of all runs."""
    made = []

    def build_step_graph(config: Config, model: Any, generator: torch.Generator, **_: Any) -> StepGraph:
        made.append(StepRecorder(CPU, generator))
        return StepGraph(model, made[-1])

    monkeypatch.setattr("fastvit_train.run.build_step_graph", build_step_graph)
    # torch's looks at the labels, but only on the CPU.
    monkeypatch.setattr(F, "one_hot", lambda labels, num_classes: (labels[:, None] == torch.arange(num_classes)).long())
    return made


@pytest.fixture
def train_twice(config, request) -> Callable[[Config], list[StepRecorder]]:
    """Train without a graph and with one, and compare what they leave."""

    def train_twice(config: Config) -> list[StepRecorder]:
        config = replace(config, log_every_steps=1, compile="off")
        train(config)
        recorders = request.getfixturevalue("recorders")
        other = replace(config, out=config.out.with_name("graph"))
        train(other)
        assert_same(outcome(other.out), outcome(config.out))
        return recorders

    return train_twice


OPTIMIZERS = {
    "adamw": OptimConfig(lr=3e-3, clip_norm=1.0, layer_decay=0.9),
    "sgd": OptimConfig(name="sgd", lr=0.05, clip_norm=1.0),
    "plain sgd": OptimConfig(name="sgd", lr=0.05, momentum=0.0),
    "muon": OptimConfig(name="muon", lr=1e-3, clip_norm=1.0, muon=MuonConfig(weight_decay=0.01)),
    "muon with sgd": OptimConfig(name="muon", lr=0.01, muon=MuonConfig(rest="sgd", normalize=True)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_graph_takes_the_same_steps(config, train_twice, name):
    """Three epochs with everything that changes from step to step."""
    config = replace(
        config,
        ema_half_life_epochs=0.5,
        label_smoothing=0.1,
        augment=EVERYTHING,
        model=ModelConfig(drop_path=0.2),
        optim=OPTIMIZERS[name],
    )
    (recorder,) = train_twice(config)
    assert (recorder.num_warm_ups, recorder.num_recordings, recorder.num_replays) == (WARM_UP_STEPS, 1, 10)


def test_batch_norm_and_parts_in_a_graph(config, train_twice):
    """Running statistics, whitening, the loss of every class apart, and gradients that add up."""
    config = replace(config, arch="resnet_fast_cifar", batch_size=16, loss="bce", accumulate=2, max_steps=5)
    (recorder,) = train_twice(replace(config, ema_half_life_epochs=0.5, optim=OPTIMIZERS["muon with sgd"]))
    assert recorder.num_replays == 3


def test_every_phase_has_its_graph(config, train_twice, capsys):
    """Of each, the first steps are made without."""
    config = replace(config, phases=((0.3, 16, 0.5), (0.6, 32, 0.5)), optim=OPTIMIZERS["adamw"])
    (recorder,) = train_twice(replace(config, model=ModelConfig(drop_path=0.2)))
    assert (recorder.num_warm_ups, recorder.num_recordings, recorder.num_replays) == (6, 3, 6)
    assert capsys.readouterr().out.count(", steps from CUDA graphs\n") == 1


def test_batches_that_are_not_whole_come_between(config, train_twice, monkeypatch):
    """The second of each four has 27 images, the third none: the graph goes on after them."""

    def built(*args: Any) -> Any:
        loader, *rest = build_loaders(*args)
        return LeavingOut(loader, {*range(40, 45), *range(64, 96)}), *rest

    monkeypatch.setattr("fastvit_train.train.build_loaders", built)
    data = replace(config.data, order="sequential", on_error="skip")
    (recorder,) = train_twice(replace(config, data=data, ema_half_life_epochs=0.5, optim=OPTIMIZERS["adamw"]))
    assert (recorder.num_warm_ups, recorder.num_replays) == (2, 4)


def test_a_run_resumes_with_a_graph(config, recorders):
    """Stopped before there is a graph, at its first step and in the middle; the last part has no graph."""
    config = replace(
        config,
        ema_half_life_epochs=0.5,
        augment=EVERYTHING,
        compile="off",
        model=ModelConfig(drop_path=0.2),
        optim=OPTIMIZERS["muon"],
    )
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    for last in (1, 4, 9, 12):
        train(replace(config, max_steps=last, resume="auto"))
    mine, other = outcome(config.out), outcome(whole.out)
    assert_same(Outcome(mine.state, other.losses), other)
    assert [recorder.num_replays for recorder in recorders] == [10, 0, 1, 3, 1]


def poisoned_step(run: Run, *args: Any) -> None:
    """A step, the sixth with weights that are no numbers."""
    if run.progress.step == 5:
        with torch.no_grad():
            run.model.head.weight.fill_(float("nan"))
    train_step(run, *args)


def test_a_graph_shows_its_gradients_when_the_loss_is_not_finite(config, recorders, monkeypatch):
    monkeypatch.setattr("fastvit_train.train.train_step", poisoned_step)
    config = replace(config, log_every_steps=1)
    with pytest.raises(FastvitError, match=r"the loss is nan at step 6 \(learning rate 0.00289, gradient norm nan\)"):
        train(config)
    assert recorders[0].num_replays == 4


class Repeating(StepRecorder):
    """Makes a step again instead of replaying it, and counts the graphs that torch.compile has made."""

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        super().__init__(device, generator)
        self.num_compiled = 0
        self.result = torch.empty(0)

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        before = counters["stats"]["unique_graphs"]
        result = super().warm_up(step)
        self.num_compiled += counters["stats"]["unique_graphs"] - before
        return result

    def record(self, step: Callable[[], Tensor]) -> "Repeating":
        self._step = step
        return self

    def replay(self) -> None:
        before = counters["stats"]["unique_graphs"]
        self.result = self._step()
        assert counters["stats"]["unique_graphs"] == before, "a step that is recorded compiles nothing"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_steps_compile_all_there_is_to_compile(config, monkeypatch):
    """In each phase, with evaluations in between, whose batches are of other sizes."""
    made = []

    def build_step_graph(config: Config, model: Any, generator: torch.Generator, **_: Any) -> StepGraph:
        made.append(Repeating(CPU, generator))
        return StepGraph(model, made[-1])

    for owner, name in ((nn.Module, "compile"), (torch, "compile")):
        compiling = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda it, *, dynamic, compiling=compiling, **_: compiling(it, backend="eager", dynamic=dynamic),
        )
    monkeypatch.setattr("fastvit_train.run.compiles_augmentation", lambda *_: False)
    monkeypatch.setattr("fastvit_train.run.build_step_graph", build_step_graph)
    config = replace(config, epochs=2, phases=((0.5, 16, 0.5),), compile="default", optim=OPTIMIZERS["muon"])
    train(replace(config, accumulate=2, model=ModelConfig(drop_path=0.2)))
    assert made[0].num_warm_ups == 4
    assert made[0].num_compiled >= 2


IMAGES = [torch.full((2, 3), float(number)) for number in range(1, 8)]


class Summing(NamedTuple):
    """Steps whose gradient is the sum of the images."""

    model: nn.Linear
    recorder: StepRecorder
    graph: StepGraph

    def step(self, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss = self.model(images).sum()
        loss.backward()
        return loss.detach()

    def run(self, number: int) -> float:
        """Make a step, and return the gradient of the first weight."""
        labels = torch.zeros(2, dtype=torch.int64)
        self.graph.run(self.step, (IMAGES[number - 1], labels, labels), Phase(32, 0.0))
        return self.gradient

    @property
    def gradient(self) -> float:
        return self.model.weight.grad[0, 0].item()


@pytest.fixture
def summing() -> Summing:
    model = nn.Linear(3, 1)
    recorder = StepRecorder(CPU, torch.Generator())
    return Summing(model, recorder, StepGraph(model, recorder))


def test_gradients_are_those_of_the_last_step(summing):
    assert [summing.run(number) for number in (1, 2, 3, 4)] == [2, 4, 6, 8]
    summing.step(IMAGES[6], IMAGES[6], IMAGES[6])
    assert summing.gradient == 14
    assert summing.run(5) == 10
    assert summing.recorder.num_replays == 3


def test_the_graph_of_a_phase_goes_with_it(summing):
    """Its memory is free, that of the gradients too, before the first step of the next one, which needs as much."""
    for number in (1, 2, 3, 4):
        summing.run(number)
    recorded, gradient = weakref.ref(summing.graph._recording), weakref.ref(summing.model.weight.grad)
    seen = []

    def step(*batch: Tensor) -> Tensor:
        seen.append((recorded(), gradient()))
        return summing.step(*batch)

    summing.graph.run(step, (IMAGES[0],) * 3, Phase(16, 0.0))
    assert seen == [(None, None)]
    assert summing.recorder.num_waits == 1, "the device may still be at it"
    assert summing.gradient == 2


CUDA = World(rank=0, world_size=1, device=torch.device("cuda", 0))


@pytest.mark.parametrize(("choice", "expected"), [("auto", True), ("on", True), ("off", False)])
def test_one_cuda_device_makes_graphs(choice, expected):
    assert can_make_graphs(Config(cuda_graph=choice), world=CUDA, dtype=torch.bfloat16) == expected


@pytest.mark.parametrize(
    ("options", "world", "dtype", "message"),
    [
        ({}, replace(CUDA, device=CPU), torch.bfloat16, "the device is cpu"),
        ({}, replace(CUDA, world_size=4), torch.bfloat16, "there are 4 devices"),
        ({}, CUDA, torch.float16, "float16 looks at the gradients before each step: use --precision bf16 or fp32"),
        ({"optim": OptimConfig(name="lamb")}, CUDA, torch.bfloat16, "optim.name is lamb, which counts its steps on"),
        ({"compile": "reduce-overhead"}, CUDA, torch.bfloat16, "compile is reduce-overhead, which makes graphs of its"),
        ({"compile": "max-autotune"}, CUDA, torch.bfloat16, "compile is max-autotune, which makes graphs of its own"),
    ],
)
def test_what_cannot_be_in_a_graph(options, world, dtype, message):
    """By itself it makes none; asked for, it is refused."""
    config = Config(**options)
    assert not can_make_graphs(config, world=world, dtype=dtype)
    with pytest.raises(FastvitError, match=f"cuda_graph is on, but {message}"):
        can_make_graphs(replace(config, cuda_graph="on"), world=world, dtype=dtype)


def test_what_a_graph_cannot_hold_is_said(monkeypatch):
    """Not tried on a GPU: a process in which a recording has failed is of no more use, and the run ends."""

    class Failing:
        def __init__(self, *_: Any, stream: Any, capture_error_mode: str) -> None:
            assert (stream, capture_error_mode) == ("stream", "thread_local")

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr("torch.cuda.Stream", lambda device: "stream")
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: SimpleNamespace(register_generator_state=lambda _: None))
    monkeypatch.setattr("torch.cuda.graph", Failing)
    recorder = CudaRecorder(CUDA.device, torch.Generator())

    def step() -> Tensor:
        raise RuntimeError("not permitted when stream is capturing\nand more")

    message = "a training step of this model cannot become a CUDA graph: not permitted when stream is capturing; add"
    with pytest.raises(FastvitError, match=f"{message} --cuda-graph off$"):
        recorder.record(step)


def test_warm_up_and_recording_count_as_first_steps():
    """They say nothing about speed."""
    assert WARM_UP_STEPS < FIRST_STEPS


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda lr: nn.Parameter(torch.zeros(2)).data.add_(torch.ones(2), alpha=lr),
            "_local_scalar_dense has no place",
        ),
        (lambda lr: torch.ones(3).nonzero(), "nonzero has no place"),
    ],
)
def test_the_stand_in_refuses_what_waits_for_the_device(step, message):
    with pytest.raises(AssertionError, match=message):
        StepRecorder(CPU, torch.Generator()).record(lambda: step(torch.tensor(0.5)))


def test_the_stand_in_holds_what_python_computed():
    """As a graph does: what these tests are for would not be seen otherwise."""
    rates, weight = [1.0], torch.zeros(1)
    recorded = StepRecorder(CPU, torch.Generator()).record(lambda: weight.add_(rates[0]))
    assert weight.item() == 0, "a recording runs nothing"
    rates[0] = 5.0
    recorded.replay()
    assert weight.item() == 1


@pytest.fixture
def replays(monkeypatch) -> list[int]:
    """Grows with each step that comes from a real graph."""
    counted: list[int] = []
    replay = torch.cuda.CUDAGraph.replay

    def counting(graph: torch.cuda.CUDAGraph) -> None:
        counted.append(len(counted))
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counting)
    return counted


def losses_on_cuda(config: Config, **changes: Any) -> list[float]:
    """The losses of a run that computes in float32 on the GPU, without torch.compile unless it is asked for."""
    options = {"device": "cuda", "precision": "fp32", "compile": "off", "log_every_steps": 1, **changes}
    config = replace(config, **options)
    train(config)
    return [line["loss"] for line in read_metrics(config.out / "metrics.jsonl")]


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "compile_mode"), [*((name, "off") for name in OPTIMIZERS), ("muon", "default")])
def test_a_cuda_graph_takes_the_same_steps(config, replays, name, compile_mode):
    """To rounding; the same draws of the augmentation, dropped paths and patches too."""
    config = replace(
        config,
        ema_half_life_epochs=0.5,
        label_smoothing=0.1,
        augment=EVERYTHING,
        accumulate=2,
        model=ModelConfig(drop_path=0.2, patch_drop=0.5),
        optim=OPTIMIZERS[name],
    )
    eager = losses_on_cuda(config, cuda_graph="off", compile=compile_mode)
    assert not replays
    graphed = losses_on_cuda(config, cuda_graph="on", compile=compile_mode, out=config.out.with_name("graph"))
    assert len(replays) == 10
    assert graphed == pytest.approx(eager, rel=2e-3)


@pytest.mark.gpu
def test_cuda_graphs_of_phases_and_batch_norm(config, replays):
    """Whole and half the resolution, with batches that come from the host."""
    data = replace(config.data, backend="torch", num_workers=0)
    config = replace(config, arch="resnet_fast_cifar", phases=((0.5, 16, 0.0),), epochs=4, data=data)
    config = replace(config, optim=OPTIMIZERS["sgd"])
    eager = losses_on_cuda(config, cuda_graph="off")
    graphed = losses_on_cuda(config, cuda_graph="on", out=config.out.with_name("graph"))
    assert graphed == pytest.approx(eager, rel=1e-2)
    assert len(replays) == 12


@pytest.mark.gpu
def test_a_run_resumes_with_a_cuda_graph(config, replays):
    config = replace(config, model=ModelConfig(drop_path=0.2), optim=OPTIMIZERS["adamw"], cuda_graph="on")
    whole = losses_on_cuda(config, out=config.out.with_name("whole"))
    losses_on_cuda(config, max_steps=6)
    assert losses_on_cuda(config, resume="auto")[-6:] == pytest.approx(whole[-6:], rel=2e-3)
    assert len(replays) == 10 + 4 + 4


@pytest.mark.gpu
def test_a_cuda_graph_shows_its_gradients(config, replays, monkeypatch):
    monkeypatch.setattr("fastvit_train.train.train_step", poisoned_step)
    with pytest.raises(FastvitError, match=r"the loss is nan at step 6 \(learning rate 0.00289, gradient norm nan\)"):
        losses_on_cuda(config, cuda_graph="on")
    assert len(replays) == 4
