"""The sweep tries one option after the other from the best so far, and marks the best of all."""

import pytest
import torch

from benchmarks.train.sweep import Choice, print_sweep, reason_of_failure, search, swept_options
from loaders.errors import FastvitError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
START = Choice(precision="bf16", compile="auto", channels_last=True, batch_size=64)


def a_search(speeds, options):
    """The rows of a search where `speeds` has the speed of each choice, by what differs from the start."""
    tried = []

    def measure(choice):
        key = tuple(name for name in (choice.precision, choice.compile, choice.batch_size))
        tried.append(key)
        return {"key": key, "images_per_second": speeds.get(key)}

    rows = search(START, options, measure)
    assert [row["key"] for row in rows] == tried
    assert len(set(tried)) == len(tried)
    return tried, [row["key"] for row in rows if row["is_best"]]


def test_each_option_is_tried_from_the_best_so_far():
    speeds = {
        ("bf16", "auto", 64): 10,
        ("fp32", "auto", 64): 5,
        ("bf16", "default", 64): 12,
        ("bf16", "default", 128): 11,
    }
    options = {"precision": ["bf16", "fp32"], "compile": ["auto", "default"], "batch_size": [64, 128]}
    tried, best = a_search(speeds, options)
    assert tried == list(speeds)
    assert best == [("bf16", "default", 64)]


def test_what_cannot_be_measured_is_not_the_best():
    tried, best = a_search({("fp32", "auto", 64): 5}, {"precision": ["fp32", "fp8"], "batch_size": [128]})
    assert tried == [(*head, size) for *head, size in tried]
    assert tried[-1] == ("fp32", "auto", 128)
    assert best == [("fp32", "auto", 64)]
    assert a_search({}, {"batch_size": [128]}) == ([("bf16", "auto", 64), ("bf16", "auto", 128)], [])


def test_values_come_from_the_command_line_or_from_the_device(monkeypatch):
    monkeypatch.setattr("benchmarks.train.sweep.has_bf16_matmul", lambda device: device.type == "cuda")
    assert swept_options(["channels-last=no", "batch_size=8,9"], START, CPU) == {
        "channels_last": [False],
        "batch_size": [8, 9],
    }
    everything = swept_options([], START, CPU)
    assert list(everything) == ["precision", "compile", "channels_last", "batch_size"]
    assert everything["precision"] == ["fp32"]
    assert everything["batch_size"] == [32, 64, 128]
    on_cuda = swept_options(["precision", "compile"], START, CUDA)
    assert on_cuda["precision"] == ["bf16", "fp16", "fp32", "fp8"]
    assert "reduce-overhead" in on_cuda["compile"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr", "sweep knows no option 'lr'"),
        ("batch_size=0", "positive numbers for batch_size, got '0'"),
        ("batch_size=", "positive numbers for batch_size, got ''"),
        ("compile=fast", "no value 'fast' for compile; choose from: auto, off, default"),
        ("channels_last=True", "no value 'True' for channels_last; choose from: yes, no"),
    ],
)
def test_unknown_options_and_values_are_refused(word, message):
    with pytest.raises(FastvitError, match=message):
        swept_options([word], START, CPU)


TRACE = """step failed: Traceback (most recent call last):
  File "a.py", line 1, in f
    g()
TypeError: the cause
  more of it

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 1, in h
RuntimeError: what came of it"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TRACE, "TypeError: the cause"),
        ("step failed: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "out of memory"),
        ("the process of step died (exit code -9)", "the process of step died (exit code -9)"),
    ],
)
def test_a_failure_has_a_reason_of_one_line(text, reason):
    assert reason_of_failure(RuntimeError(text)) == reason


def test_a_sweep_without_any_speed_is_an_error():
    row = {"problem": "out of memory", "is_best": False, "precision": "bf16", "compile": "auto"}
    with pytest.raises(
        FastvitError, match=r"none of the settings.*\n.*--batch-size 64 .channels first.: out of memory"
    ):
        print_sweep([row | {"channels_last": False, "batch_size": 64}])


def test_a_best_that_is_within_the_noise_is_called_so(capsys):
    quiet = {"noise": {"warnings": []}}
    cost = {"cpu_seconds_per_image": 0, "peak_rss_bytes": 0, "problem": None, "preset": "p", "arch": "a"}
    where = {"machine": {"cpu": "c", "cores": 1, "memory_bytes": 0, "gpu": None}, "versions": {"torch": "2"}}
    rows = [
        {**cost, **where, **quiet, "resolution": 32, "precision": "bf16", "compile": "auto", "channels_last": True}
        | changes
        for changes in (
            {"batch_size": 64, "images_per_second": 10, "images_per_second_interval": (9, 11), "is_best": False},
            {"batch_size": 32, "images_per_second": 5, "images_per_second_interval": (5, 6), "is_best": False},
            {"batch_size": 96, "images_per_second": 12, "images_per_second_interval": (10, 14), "is_best": True},
        )
    ]
    print_sweep(rows)
    said = capsys.readouterr().out
    assert "best: --precision bf16 --compile auto --batch-size 96; 1.20 times the images/s of --precision bf16" in said
    assert "1 of the others may be as fast" in said
    assert "another batch size is another recipe" in said
