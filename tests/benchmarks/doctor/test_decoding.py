"""Variants take turns: rounds until the time is up, and loaders that are closed in the end."""

import time
from dataclasses import replace

import pytest

from benchmarks.doctor import decoding
from benchmarks.doctor.decoding import Variant, measure_variants


@pytest.fixture
def turns(monkeypatch):
    """What loaders are asked for: they are built, make epochs of ten images, and are closed."""
    seen = []

    class Loader:
        def __init__(self, name, path, config):
            assert config.on_error == "skip"
            self._name = name
            seen.append(("build", name))
            time.sleep(float(path))

        def set_epoch(self, epoch):
            seen.append((epoch, self._name))

        def __iter__(self):
            time.sleep(0.002)
            yield type("Batch", (), {"labels": range(10)})

        def close(self):
            seen.append(("close", self._name))

    monkeypatch.setattr(decoding, "build_loader", Loader)
    monkeypatch.setattr(decoding, "_LONG", 1e9)  # on a machine that stands still for a while all epochs are long
    return seen


def test_all_have_a_turn_in_each_round(turns, config):
    variants = {"a": Variant("0", config, "a"), "b": Variant("0", replace(config, batch_size=7), "b")}
    speeds = measure_variants(variants, num_rounds=2, turn_seconds=0.1, deadline=time.monotonic() + 60)
    assert {name: len(values) for name, values in speeds.items()} == {"a": 2, "b": 2}
    assert all(0 < value < 5000 for values in speeds.values() for value in values)
    assert [turn for turn in turns if turn[0] in ("build", "close")] == 2 * [
        (what, name) for name in ("a", "b") for what in ("build", "close")
    ]
    assert {(0, "a"), (1, "a"), (0, "b"), (1, "b")} <= set(turns)


def test_no_round_begins_after_the_deadline_but_the_first(turns, config):
    speeds = measure_variants({"a": Variant("0", config)}, num_rounds=9, turn_seconds=0.001, deadline=0)
    assert len(speeds["a"]) == 1
    assert turns[-1] == ("close", "native")


def test_a_loader_that_takes_long_to_open_stays_open(turns, config):
    variant = Variant("0.02", config, "resident")
    measure_variants({"a": variant}, num_rounds=3, turn_seconds=0.001, deadline=time.monotonic() + 60)
    assert [what for what, _ in turns if what in ("build", 0, "close")] == ["build", 0, 0, 0, "close"]


def test_a_long_epoch_is_not_made_twice(turns, config, monkeypatch):
    monkeypatch.setattr(decoding, "_LONG", 4)
    measure_variants({"a": Variant("0", config)}, num_rounds=1, turn_seconds=0.0001, deadline=0)
    assert [what for what, _ in turns] == ["build", 0, "close"]


def test_a_turn_lasts(turns, config):
    measure_variants({"a": Variant("0", config)}, num_rounds=1, turn_seconds=0.05, deadline=0)
    assert len(turns) > 10
