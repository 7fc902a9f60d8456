"""The verdict names what limits a run, how far the other side is, and what to change."""

from pathlib import Path

import pytest

from benchmarks.train.verdict import verdict_of

DATA = Path("train.beton")


def a_row(contender, *rounds, **changes):
    row = {
        "contender": contender,
        "preset": "some-preset",
        "backend": "native",
        "device": "cuda",
        "threads": 4,
        "rounds": list(rounds),
        "images_per_second": sorted(rounds)[len(rounds) // 2],
        "cpu_seconds_per_image": 0.01,
        "device_busy_fraction": None,
        "ratio_to_matmuls": 0.9,
        "ratio_to_matmuls_interval": (0.8, 1.0),
    }
    return row | changes


def rows_of(*, train, step, loader, **changes):
    return [a_row(name, *rounds, **changes) for name, rounds in (("train", train), ("step", step), ("loader", loader))]


@pytest.fixture(autouse=True)
def _cpus(monkeypatch):
    monkeypatch.setattr("benchmarks.train.verdict.usable_cpus", lambda: 16)


def test_a_slow_loader_is_the_bottleneck_and_needs_cores():
    verdict = verdict_of(rows_of(train=[390, 400, 380], step=[800, 800, 800], loader=[400, 400, 400]), DATA)
    assert verdict["bottleneck"] == "loader"
    assert verdict["loader_headroom"] == pytest.approx(400 / 390)
    assert verdict["step_headroom"] == pytest.approx(800 / 390)
    assert verdict["step_headroom_interval"] == (2, pytest.approx(800 / 380))
    assert verdict["loader_cores"] == pytest.approx(8)
    first, threads, doctor = verdict["advice"]
    assert "The step could take 800 images/s, which the loader needs 8.0 cores for; it has 4 threads" in first
    assert "--data.num-workers 8" in threads
    assert "fastvit-bench doctor train.beton --preset some-preset" in doctor


def test_more_threads_are_advised_only_where_there_are_cores_for_them(monkeypatch):
    monkeypatch.setattr("benchmarks.train.verdict.usable_cpus", lambda: 4)
    verdict = verdict_of(rows_of(train=[400], step=[800], loader=[400]), DATA)
    assert not any("--data.num-workers" in sentence for sentence in verdict["advice"])


def test_another_backend_than_native_is_compared_with_it():
    verdict = verdict_of(rows_of(train=[400], step=[800], loader=[400], backend="torch"), DATA)
    assert any("--backend native" in sentence for sentence in verdict["advice"])


@pytest.mark.parametrize(
    ("share", "advice"), [(0.5, "at 50% of the rate of its matmuls alone: --sweep"), (0.9, "only fewer operations")]
)
def test_a_slow_step_is_tuned_or_given_less_to_do(share, advice):
    rows = rows_of(train=[99], step=[100], loader=[1000], ratio_to_matmuls=share)
    verdict = verdict_of(rows, DATA)
    assert verdict["bottleneck"] == "step"
    assert verdict["share_of_matmul_ceiling"] == share
    assert advice in verdict["advice"][0]
    assert "keeps up with 1 of its 4 threads" in verdict["advice"][1]


def test_without_matmuls_nobody_knows_how_fast_a_step_could_be():
    rows = rows_of(train=[99], step=[100], loader=[1000], ratio_to_matmuls=None, ratio_to_matmuls_interval=None)
    assert "Add the contender matmuls" in verdict_of(rows, DATA)["advice"][0]


def test_a_gpu_that_waits_is_told():
    rows = rows_of(train=[80], step=[100], loader=[1000], device_busy_fraction=0.7)
    *_, overlap, busy = verdict_of(rows, DATA)["advice"]
    assert "reaches 80% of its slower side" in overlap
    assert "computes in 70% of the step's time" in busy


def test_on_the_cpu_the_loaders_share_of_its_time_counts():
    train, step, loader = rows_of(train=[90], step=[100], loader=[1000], device="cpu")
    loader["cpu_seconds_per_image"] = 0.001
    assert "loading takes 10.0% of the CPU time" in verdict_of([train, step, loader], DATA)["advice"][-1]


def test_a_close_call_is_called_one():
    verdict = verdict_of(rows_of(train=[90] * 3, step=[100, 120, 100], loader=[110, 100, 110]), DATA)
    assert "within the noise" in verdict["advice"][0]


def test_a_verdict_needs_all_three():
    rows = rows_of(train=[1], step=[1], loader=[1])
    assert verdict_of(rows[:2], DATA) is None
