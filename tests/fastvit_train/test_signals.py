"""SIGTERM and SIGUSR1 stop a run where it is, and it goes on from there as if nothing had happened."""

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


def test_ctrl_c_is_not_caught(config, monkeypatch):
    error = train_until(config, monkeypatch, "fastvit_train.train.train_step", call=6, number=signal.SIGINT)
    assert isinstance(error, KeyboardInterrupt)
    assert checkpoint.load(config.out / "checkpoint.pt")["progress"]["step"] == 4
