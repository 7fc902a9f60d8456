"""SIGTERM, SIGUSR1 and Ctrl-C stop a run where it is, and it goes on from there as if nothing had happened."""

import os
import signal
import sys
import threading
from dataclasses import replace

import pytest

from fastvit_train import checkpoint, signals
from fastvit_train.metrics import read_metrics
from fastvit_train.signals import EXIT_STOPPED, RunStopped, StopSignal
from fastvit_train.train import train
from loaders.resident_loader import ResidentLoader
from runs import same, weights

BEFORE = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}


def train_until(config, monkeypatch, name, *, call, number=signal.SIGTERM):
    """Send this process a signal as `name` is called for the `call`th time in training; returns what `train` raises."""
    calls = iter(range(1, 10**6))
    module, _, attribute = name.rpartition(".")
    function = getattr(sys.modules[module], attribute)

    def interrupted(*args, **options):
        if next(calls) == call:
            signal.raise_signal(number)
        return function(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(name, interrupted)
        with pytest.raises(BaseException) as raised:  # noqa: PT011  # which one is what the tests look at
            train(config)
    return raised.value


def evaluations(folder):
    return [
        (line["step"], line["top1"], line["loss"])
        for line in read_metrics(folder / "metrics.jsonl")
        if line["kind"] == "eval"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_run_after_its_step(trained, config, monkeypatch, capsys, number):
    stopped = train_until(config, monkeypatch, "fastvit_train.train.train_step", call=6, number=number)
    assert isinstance(stopped, RunStopped)
    assert stopped.code == EXIT_STOPPED == 75
    path = config.out / "checkpoint.pt"
    assert checkpoint.load(path)["progress"]["step"] == 6
    said = f"stopped by {number.name} at step 6; --resume auto continues from {path}"
    assert said in " ".join(capsys.readouterr().out.split())
    assert {number: signal.getsignal(number) for number in BEFORE} == BEFORE
    train(replace(config, resume="auto"))
    assert same(weights(config.out), weights(trained.config.out))
    assert evaluations(config.out) == evaluations(trained.config.out)


@pytest.mark.parametrize(("call", "step"), [(1, 4), (5, 12)])
def test_an_evaluation_that_was_stopped_is_done_again(trained, config, monkeypatch, call, step):
    """Of the first epoch and of the last, each in its first batch of two."""
    assert isinstance(train_until(config, monkeypatch, "fastvit_train.evaluate.normalize", call=call), RunStopped)
    assert checkpoint.load(config.out / "checkpoint.pt")["progress"]["step"] == step
    assert len(evaluations(config.out)) == step // 4 - 1
    result = train(replace(config, resume="auto"))
    assert same(weights(config.out), weights(trained.config.out))
    assert evaluations(config.out) == evaluations(trained.config.out)
    assert result["best_step"] == trained.result["best_step"]
    assert checkpoint.load(config.out / "checkpoint.pt")["progress"]["top1"] == trained.result["top1"]


def test_a_signal_after_the_last_step_of_an_epoch_keeps_its_evaluation(trained, config, monkeypatch):
    assert isinstance(train_until(config, monkeypatch, "fastvit_train.train.train_step", call=4), RunStopped)
    assert evaluations(config.out) == []
    train(replace(config, resume="auto"))
    assert evaluations(config.out) == evaluations(trained.config.out)


def in_child(body) -> int:
    """The status of a forked process that calls `body`."""
    process = os.fork()
    if not process:
        try:
            body()
        finally:
            os._exit(0)
    return os.waitpid(process, 0)[1]


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    monkeypatch.setattr(signals, "_SAME_REQUEST_SECONDS", -1)

    def twice():
        with StopSignal():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    status = in_child(twice)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_a_signal_that_comes_twice_at_a_time_is_one():
    with StopSignal() as stop:
        assert stop.received is None
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGUSR1"


def test_in_another_thread_signals_stay_as_they_are():
    seen = []

    def enter():
        with StopSignal() as stop:
            seen.append((stop.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, BEFORE[signal.SIGTERM])]


def test_ctrl_c_saves_after_its_step(trained, config, monkeypatch, capfd):
    error = train_until(config, monkeypatch, "fastvit_train.train.train_step", call=6, number=signal.SIGINT)
    assert isinstance(error, KeyboardInterrupt)
    path = config.out / "checkpoint.pt"
    assert str(error) == f"interrupted at step 6; --resume auto continues from step 6: {path}"
    assert "Ctrl-C: the run stops after this step; a second one ends it at once" in capfd.readouterr().err
    assert checkpoint.load(path)["progress"]["step"] == 6
    assert {number: signal.getsignal(number) for number in BEFORE} == BEFORE
    train(replace(config, resume="auto"))
    assert same(weights(config.out), weights(trained.config.out))
    assert evaluations(config.out) == evaluations(trained.config.out)


# Of the first epoch, from the first batch on: four of training and two of evaluation.
@pytest.mark.parametrize(("batch", "step"), [(1, 0), (3, 2), (5, 4), (6, 4)])
def test_ctrl_c_does_not_wait_for_a_batch(trained, config, monkeypatch, batch, step):
    calls = iter(range(1, 10**6))
    whole = ResidentLoader.__iter__

    def interrupted(loader):
        for one in whole(loader):
            if next(calls) == batch:
                signal.raise_signal(signal.SIGINT)
            yield one

    with monkeypatch.context() as patch:
        patch.setattr(ResidentLoader, "__iter__", interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:
            train(config)
    path = config.out / "checkpoint.pt"
    if not step:
        assert str(raised.value) == "interrupted at step 0, before its first checkpoint"
        assert not path.exists()
        return
    assert str(raised.value) == f"interrupted at step {step}; --resume auto continues from step {step}: {path}"
    train(replace(config, resume="auto"))
    assert same(weights(config.out), weights(trained.config.out))
    assert evaluations(config.out) == evaluations(trained.config.out)


def test_ctrl_c_before_training_promises_no_checkpoint(config, monkeypatch):
    monkeypatch.setattr("fastvit_train.train.build_loaders", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as raised:
        train(config)
    assert str(raised.value) == f"interrupted before the first step of the run in {config.out}"


def test_a_second_ctrl_c_ends_the_run_at_once(config, monkeypatch):
    monkeypatch.setattr(signals, "_SAME_CTRL_C_SECONDS", -1)

    def step(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr("fastvit_train.train.train_step", step)
    with pytest.raises(KeyboardInterrupt, match="interrupted at step 0, before its first checkpoint"):
        train(config)


def test_a_ctrl_c_that_torchrun_passes_on_is_no_second_one():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert (stop.received, stop.is_urgent) == ("SIGINT", False)


def test_a_ctrl_c_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
