"""The accounting of time, on a simulated device that works behind the host at a rate of its own."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastvit_train.data import build_loaders
from fastvit_train.device_clock import CudaClock, HostClock
from fastvit_train.distributed import start_world
from fastvit_train.evaluate import Evaluation
from fastvit_train.forecast import Forecast
from fastvit_train.metrics import read_metrics
from fastvit_train.prefetch import Prefetcher
from fastvit_train.run import Run, start_run
from fastvit_train.step_timer import FIRST_STEPS, StepTimer, rates
from fastvit_train.train import evaluate_if_due, train, train_epoch
from loaders import Batch

BATCH = 32
DEVICE_RATE = 3000  # images per second
COMPILE_SECONDS = 60.0


class SimulatedDevice:
    """A device with a queue, and the host whose time the test moves."""

    def __init__(self) -> None:
        self.host = 100.0
        """The host's time."""
        self.free_at = 0.0
        """When the device is done with its queue."""

    def queue(self, seconds: float) -> None:
        """Give the device work, which takes the host next to nothing."""
        self.host += 1e-5
        self.free_at = max(self.free_at, self.host) + seconds

    def synchronize(self, device: torch.device | None = None) -> None:
        self.host = max(self.host, self.free_at)


class SimulatedEvent:
    """In place of `torch.cuda.Event`."""

    device: SimulatedDevice

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        self._time = max(self.device.host, self.device.free_at)

    def elapsed_time(self, end: "SimulatedEvent") -> float:
        assert end._time <= self.device.host, "read before the device was there"
        return 1000 * (end._time - self._time)


class SimulatedLoader:
    """Makes batches at a rate, two ahead of the one that is handed over."""

    skipped = ()

    def __init__(self, device: SimulatedDevice, *, rate: float, num_batches: int) -> None:
        self._device = device
        self._seconds = BATCH / rate
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def set_epoch(self, epoch: int, *, resolution: int | None = None, skip_batches: int = 0) -> None:
        pass

    def __iter__(self) -> Iterator[Batch]:
        taken = [self._device.host] * 3  # when the batches were taken, whose slots the loader fills again
        made = self._device.host
        for number in range(self._num_batches):
            made = max(made, taken[number]) + self._seconds
            self._device.host = max(self._device.host, made)
            yield Batch(torch.zeros(BATCH, 3, 8, 8, dtype=torch.uint8), torch.zeros(BATCH, dtype=torch.int64), None)
            taken.append(self._device.host)


@pytest.fixture
def device(monkeypatch) -> SimulatedDevice:
    """The device that torch.cuda shows, and the time of the host."""
    simulated = SimulatedDevice()
    monkeypatch.setattr(SimulatedEvent, "device", simulated, raising=False)
    monkeypatch.setattr("torch.cuda.Event", SimulatedEvent)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: None)
    monkeypatch.setattr("torch.cuda.synchronize", simulated.synchronize)
    monkeypatch.setattr("time.perf_counter", lambda: simulated.host)
    return simulated


@pytest.fixture
def run(config, device, monkeypatch) -> Iterator[Run]:
    """A run whose steps are the simulated device's."""

    def train_step(run, images, labels, index, totals):
        totals.add(torch.zeros(()), torch.zeros(len(images), 4), labels)
        if run.progress.step == 0:
            device.host += COMPILE_SECONDS
        device.queue(len(images) / DEVICE_RATE)

    monkeypatch.setattr("fastvit_train.train.train_step", train_step)
    with start_world("cpu") as world:
        loader, _, num_classes = build_loaders(config, world)
        run = start_run(replace(config, epochs=2, log_every_steps=10), world, config.out, loader, num_classes)
        run.steps_per_epoch = 205
        run.metrics.start_at(0)
        yield run


def simulate_epoch(run: Run, device: SimulatedDevice, *, rate: float) -> StepTimer:
    timer = StepTimer(CudaClock(torch.device("cuda")))
    train_epoch(run, SimulatedLoader(device, rate=rate, num_batches=205), Forecast(run), timer)
    return timer


@pytest.mark.parametrize(("rate", "waiting"), [(7000, 0), (5000, 0), (3500, 0), (2000, 1 / 3)])
def test_waiting_is_what_the_device_idles(run, device, rate, waiting):
    """However far the host runs ahead to wait for a loader that is fast enough."""
    simulate_epoch(run, device, rate=rate)
    found = rates(run)
    assert found.data_wait_fraction == pytest.approx(waiting, abs=0.01)
    assert found.images_per_second == pytest.approx(min(rate, DEVICE_RATE), rel=0.01)
    lines = read_metrics(run.folder / "metrics.jsonl")
    assert len(lines) == 20
    live = [line["data_wait_fraction"] for line in lines[1:]]  # in the first, the loader was ahead by its slots
    assert live == pytest.approx([waiting] * 19, abs=0.05)


def test_the_host_alone_would_tell_of_waiting_that_there_is_not(run, device):
    """What the accounting was before: waiting for a loader that is faster than the device."""
    clock = HostClock()
    for _ in Prefetcher(SimulatedLoader(device, rate=5000, num_batches=200), torch.device("cpu"), clock):
        device.queue(BATCH / DEVICE_RATE)
    device.synchronize()
    assert clock.waited() / (device.free_at - 100) > 0.4


def test_an_epoch_ends_when_the_device_is_done(run, device, monkeypatch):
    """Its last five steps, after the last log line, are training and not evaluation."""
    simulate_epoch(run, device, rate=7000)
    assert device.host >= device.free_at
    assert run.progress.step == 205
    first = BATCH / 7000  # the loader's first batch
    assert run.progress.train_seconds == pytest.approx(COMPILE_SECONDS + first + 205 * BATCH / DEVICE_RATE, rel=1e-3)
    monkeypatch.setattr("fastvit_train.train.evaluate", lambda *_, **__: Evaluation(0.5, None, 1.0, 50))
    evaluate_if_due(run, SimulatedLoader(device, rate=7000, num_batches=1))
    assert run.progress.eval_seconds == 0


def test_a_checkpoint_is_not_charged_with_the_steps_before_it(run, device, monkeypatch):
    run.config = replace(run.config, checkpoint_every_steps=7, log_every_steps=10)
    behind = []

    def save_checkpoint(run):
        behind.append(max(0.0, device.free_at - device.host))
        device.host += 5

    monkeypatch.setattr("fastvit_train.train.save_checkpoint", save_checkpoint)
    simulate_epoch(run, device, rate=7000)
    assert behind == [0] * 29
    assert run.progress.train_seconds - COMPILE_SECONDS == pytest.approx(205 * BATCH / DEVICE_RATE, rel=0.01)


def test_first_steps_are_kept_apart(run, device):
    """A minute of compilation changes no rate."""
    simulate_epoch(run, device, rate=7000)
    progress = run.progress
    assert progress.train_seconds - progress.steady_seconds == pytest.approx(COMPILE_SECONDS, rel=0.01)
    assert progress.steady_images == (205 - FIRST_STEPS) * BATCH
    assert rates(run).images_per_second == pytest.approx(DEVICE_RATE, rel=0.01)
    first = read_metrics(run.folder / "metrics.jsonl")[0]
    assert first["images_per_second"] == pytest.approx(DEVICE_RATE, rel=0.01)
    assert first["startup_seconds"] == pytest.approx(COMPILE_SECONDS, rel=0.01)


def test_every_new_shape_has_its_first_steps(run, device):
    timer = simulate_epoch(run, device, rate=7000)
    num_steady = run.progress.steady_images
    timer.start(run.progress, flops_per_image=1.0)
    for shape, steps in (((8.0, 0.0), 5), ((16.0, 0.0), 2), ((16.0, 0.5), 4), ((8.0, 0.0), 3)):
        for _ in range(steps):
            timer.begin_step(*shape)
            device.queue(1.0)
            run.progress.num_images += BATCH
    timer.stop()
    assert run.progress.steady_images - num_steady == BATCH * (2 + 0 + 1 + 3)
    assert run.progress.train_seconds - run.progress.steady_seconds == pytest.approx(COMPILE_SECONDS + 8, rel=0.01)


def test_a_run_of_first_steps_alone_names_no_rate(config, capsys):
    result = train(replace(config, max_steps=FIRST_STEPS))
    assert result["images_per_second"] is None
    assert result["data_wait_fraction"] is None
    assert result["startup_seconds"] == result["train_seconds"] > 0
    assert "speed       not known: the run had no more than the first steps" in capsys.readouterr().out


def test_the_figures_of_a_run_agree(trained):
    config, result = trained
    assert result["startup_seconds"] < result["train_seconds"]
    flops = result["model_flops_per_second"] / result["images_per_second"]
    line = read_metrics(config.out / "metrics.jsonl")[-2]
    assert line["model_flops_per_second"] / line["images_per_second"] == pytest.approx(flops)
    assert result["model_flops_utilization"] is None, "no table knows this CPU"
    assert result["peak_rss_bytes"] >= line["peak_rss_bytes"] > 50 * 2**20


@pytest.mark.gpu
def test_the_clock_of_a_real_device():
    device = torch.device("cuda")
    clock = CudaClock(device)
    before = clock.now()
    for seconds in (0.02, 0.0):
        torch.cuda._sleep(int(seconds * 1e9))
        clock.wait_begins()
        clock.wait_ends()
    after = clock.now()
    assert clock.waited() < 0.001
    assert after - before > 0.005
    clock.wait_begins()
    time.sleep(0.05)
    clock.wait_ends()
    clock.now()
    assert 0.045 < clock.waited() < 0.1


def test_the_page_names_all_figures(trained):
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    names = {name for line in read_metrics(trained.config.out / "metrics.jsonl") for name in line} | set(trained.result)
    assert {name for name in names if f"`{name}`" not in page} == set()
