"""Rates: as given, and of cards, from rows that were measured."""

import pytest

from benchmarks.plan.job import describe_job
from benchmarks.plan.rates import committed_rows, loader_rate, rates_as_given, rates_of_card
from fastvit_train.presets import build_preset
from fastvit_train.schedule import Phase
from loaders.errors import FastvitError

SMALL, LARGE = Phase(160, 0.0), Phase(192, 0.0)


@pytest.fixture(scope="module")
def job():
    """ResNet-50 at 160 and 192 px."""
    return describe_job(build_preset("imagenet-resnet50-ffcv"), num_images=880_000, num_val_images=50_000)


def row(card: str, rate: float, **others: object) -> dict[str, object]:
    return {
        "benchmark": "accept",
        "variant": "auto",
        "preset": "imagenet-resnet50-ffcv",
        "arch": "resnet50",
        "resolution": 192,
        "images_per_second": rate,
        "flops_per_image": 17_855_643_648.0,
        "machine": {"gpu": {"name": card}},
        "date": "2026-11-27T08:00:00+00:00",
        **others,
    }


def test_other_phases_and_evaluation_go_by_their_operations(job):
    rates = rates_as_given(job, 1000.0, per_core=3000.0)
    flops = job.flops_per_image
    assert rates.phases[LARGE] == (pytest.approx(1000), 3000)
    assert rates.phases[SMALL] == (pytest.approx(1000 * flops[LARGE] / flops[SMALL]), 3000)
    evaluated = flops[Phase(256, 0.0)]
    assert rates.evaluation_images_per_second == pytest.approx(1000 * flops[LARGE] / (2 * evaluated / 3))


def test_the_newest_row_of_the_card_counts(job):
    rows = [
        row("NVIDIA A100-SXM4-80GB", 3000.0),
        row("NVIDIA H200", 9000.0),
        row("NVIDIA H200", 9500.0, date="2026-11-28T08:00:00+00:00"),
        row("NVIDIA H200", 100.0, date="2026-11-29T08:00:00+00:00", backend="native"),
        row("NVIDIA H200", 100.0, date="2026-11-29T08:00:00+00:00", preset="cifar10-quick", arch=None),
        row("NVIDIA H200", 100.0, date="2026-11-29T08:00:00+00:00", benchmark="train", contender="train"),
    ]
    assert rates_of_card(job, "NVIDIA H200", rows, per_core=1.0).phases[LARGE].images_per_second == 9500
    step = row("NVIDIA H200", 9700.0, date="2026-11-29T08:00:00+00:00", benchmark="train", contender="step")
    assert rates_of_card(job, "NVIDIA H200", [*rows, step], per_core=1.0).phases[LARGE].images_per_second == 9700


def test_another_card_is_as_much_faster_as_its_matmuls(job):
    rates = rates_of_card(job, "NVIDIA A100-SXM4-40GB", [row("NVIDIA H200", 9000.0)], per_core=1.0)
    assert rates.phases[LARGE].images_per_second == pytest.approx(9000 * 312 / 989)
    assert "0.32 for NVIDIA A100-SXM4-40GB" in rates.source


def test_what_the_host_needs_is_that_of_steps_without_graphs(job):
    rows = [
        row("NVIDIA H200", 9000.0, host_milliseconds=0.5),
        row("NVIDIA H200", 8000.0, variant="no CUDA graph", host_milliseconds=20.0),
    ]
    rates = rates_of_card(job, "NVIDIA H200", rows, per_core=1.0)
    assert rates.host_seconds_per_step == 0.02
    assert rates.phases[LARGE].images_per_second == 9000


@pytest.mark.parametrize(
    ("card", "arch", "message"),
    [
        (
            "NVIDIA H200",
            "resnet18",
            "no row in benchmarks/results says how fast a GPU trains resnet18; give --images-per",
        ),
        ("Voodoo 2", "resnet50", "how fast 'Voodoo 2' multiplies in bf16 is not known"),
    ],
)
def test_what_was_not_measured_is_to_be_given(card, arch, message):
    config = build_preset("imagenet-resnet50-ffcv", arch=arch)
    job = describe_job(config, num_images=880_000, num_val_images=50_000)
    with pytest.raises(FastvitError, match=message):
        rates_of_card(job, card, [row("NVIDIA H200", 9000.0)], per_core=1.0)


def test_rows_of_the_repository_have_what_plans_start_from(job):
    rates = rates_of_card(job, "NVIDIA H200", committed_rows(), per_core=loader_rate())
    assert rates.phases[LARGE].images_per_second == pytest.approx(9654.4, abs=0.1)
    assert rates.host_seconds_per_step == pytest.approx(0.0214, abs=1e-4)
    assert 1 / loader_rate() == pytest.approx(288.75e-6)
