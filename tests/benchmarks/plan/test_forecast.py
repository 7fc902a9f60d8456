"""The model of a run, term by term, and its needs against what it says where they are met."""

from dataclasses import replace

import pytest

from benchmarks.plan.forecast import Cluster, all_reduce_seconds, forecast, hit_fraction, step_time
from benchmarks.plan.job import Epoch, Job
from benchmarks.plan.rates import PhaseRates, Rates
from fastvit_train.config import Config
from fastvit_train.schedule import Phase

SMALL, LARGE = Phase(160, 0.0), Phase(224, 0.0)
JOB = Job(
    config=Config(batch_size=1000),
    num_images=100_000,
    num_val_images=20_000,
    epochs=(*[Epoch(phase=SMALL, num_steps=100)] * 3, Epoch(phase=LARGE, num_steps=100)),
    flops_per_image={SMALL: 1e9, LARGE: 2e9},
    evaluation_flops_per_image=1e9,
    num_evaluations=4,
    num_checkpoints=2,
    gradient_bytes=400_000_000,
    checkpoint_bytes=1_200_000_000,
    best_bytes=400_000_000,
)
RATES = Rates(
    source="a test",
    phases={SMALL: PhaseRates(4000.0, 500.0), LARGE: PhaseRates(2000.0, 400.0)},
    evaluation_images_per_second=8000.0,
    host_seconds_per_step=0.01,
    rest_seconds=10.0,
    first_steps_seconds=30.0,
    disk_bytes_per_second=1e9,
)
ONE = Cluster(
    num_gpus=1,
    gpus_per_node=8,
    cores=None,
    bytes_per_image=50_000,
    storage_bytes_per_second=None,
    cache_bytes=0,
    nvlink_bytes_per_second=4e11,
    network_bytes_per_second=1e11,
)


def test_one_gpu_that_nothing_holds_up():
    plan = forecast(JOB, RATES, ONE)
    assert plan.seconds == pytest.approx(
        {
            "step": 300_000 / 4000 + 100_000 / 2000,
            "network_wait": 0,
            "loader_wait": 0,
            "storage_wait": 0,
            "evaluation": 4 * 20_000 / 8000,
            "startup": 10 + 2 * 30,
            "checkpoints": (2 * 1.2e9 + 4 * 0.4e9) / 1e9,
        }
    )
    assert plan.hours == pytest.approx((125 + 10 + 70 + 4) / 3600)
    assert plan.limited_by == "step"


def test_a_gpu_waits_for_too_few_cores_while_it_trains_and_evaluates():
    plan = forecast(JOB, RATES, replace(ONE, cores=5))  # one of them queues the steps
    assert plan.seconds["step"] == pytest.approx(125)
    assert plan.seconds["loader_wait"] == pytest.approx(300_000 / 2000 + 100_000 / 1600 - 125)
    assert plan.seconds["evaluation"] == pytest.approx(4 * 20_000 / 1600)
    assert plan.limited_by == "loader"


def test_storage_is_waited_for_until_all_is_in_memory():
    slow = replace(ONE, storage_bytes_per_second=50e6)  # 1,000 images a second
    every_epoch = forecast(JOB, RATES, slow)
    assert every_epoch.seconds["storage_wait"] == pytest.approx(400 - 125)
    assert every_epoch.limited_by == "storage"
    once = forecast(JOB, RATES, replace(slow, cache_bytes=1e10))
    assert once.seconds["storage_wait"] == pytest.approx(100 - 25)
    half = forecast(JOB, RATES, replace(slow, cache_bytes=2.5e9))
    assert half.seconds["storage_wait"] == pytest.approx(75 + 2 * (50 - 25) + 0)


@pytest.mark.parametrize(("num_gpus", "epoch", "fraction"), [(8, 0, 0), (8, 1, 1), (16, 1, 0.5), (16, 2, 0.75)])
def test_a_node_has_seen_the_images_that_came_to_it(num_gpus, epoch, fraction):
    cluster = replace(ONE, num_gpus=num_gpus, cache_bytes=1e12)
    assert hit_fraction(JOB, cluster, epoch=epoch) == pytest.approx(fraction)


def test_gradients_take_nvlink_the_network_and_a_latency():
    def seconds(num_gpus: int) -> float:
        return all_reduce_seconds(4e8, replace(ONE, num_gpus=num_gpus))

    num_buckets = 16
    assert seconds(1) == 0
    assert seconds(8) == pytest.approx(2 * 7 / 8 * 4e8 / 4e11 + num_buckets * 10e-6 * 3)
    assert seconds(32) == pytest.approx(seconds(8) + 2 * 3 / 4 * 4e8 / 1e11 + num_buckets * 10e-6 * 2)


def test_gradients_hide_behind_the_backward_pass_but_for_the_last_bucket():
    fast = step_time(JOB, RATES, replace(ONE, num_gpus=16), LARGE, hit_fraction=0)
    assert fast.compute == pytest.approx(1000 / 16 / 2000)
    assert fast.network == pytest.approx(all_reduce_seconds(4e8, replace(ONE, num_gpus=16)) / 16)
    slow = replace(ONE, num_gpus=16, network_bytes_per_second=5e9)
    step = step_time(JOB, RATES, slow, LARGE, hit_fraction=0)
    assert step.network == pytest.approx(all_reduce_seconds(4e8, slow) - 2 / 3 * step.compute)
    assert step.limit == "network"
    in_parts = replace(JOB, config=replace(JOB.config, accumulate=2))
    assert step_time(in_parts, RATES, slow, LARGE, hit_fraction=0).network == pytest.approx(
        step.network + 1 / 3 * step.compute
    )


def test_many_gpus_with_few_images_each_wait_for_their_hosts():
    plan = forecast(JOB, RATES, replace(ONE, num_gpus=200))
    assert plan.limited_by == "launch"
    assert plan.seconds["step"] == pytest.approx(400 * 0.01)
    assert forecast(JOB, replace(RATES, host_seconds_per_step=1.0), ONE).seconds["step"] == pytest.approx(125)


def test_on_a_cpu_the_loader_takes_its_time_from_the_steps():
    plan = forecast(JOB, replace(RATES, on_cpu=True), replace(ONE, cores=2))
    assert plan.seconds["step"] == pytest.approx(125)
    assert plan.seconds["loader_wait"] == pytest.approx(300_000 / 1000 + 100_000 / 800)
    assert plan.seconds["evaluation"] == pytest.approx(10)  # measured with the loader
    assert plan.limited_by == "loader"
    assert forecast(JOB, replace(RATES, on_cpu=True), replace(ONE, cores=20)).limited_by == "step"


@pytest.mark.parametrize("num_gpus", [1, 4, 8, 64])
def test_what_a_plan_needs_is_enough_and_less_is_not(num_gpus):
    cluster = replace(ONE, num_gpus=num_gpus)
    rates = replace(RATES, phases={phase: PhaseRates(rate, 500.0) for phase, (rate, _) in RATES.phases.items()})
    needs = forecast(JOB, rates, cluster).needs
    step = step_time(JOB, rates, cluster, SMALL, hit_fraction=0)  # the phase with the most images a second
    assert needs.loader_images_per_second_per_node == pytest.approx(1000 / cluster.num_nodes / step.device)
    enough = replace(cluster, storage_bytes_per_second=needs.storage_bytes_per_second_per_node * 1.0001)
    assert forecast(JOB, rates, enough).seconds["storage_wait"] == pytest.approx(0, abs=1e-9)
    less = replace(cluster, storage_bytes_per_second=needs.storage_bytes_per_second_per_node * 0.9)
    assert forecast(JOB, rates, less).seconds["storage_wait"] > 0
    cores = needs.cores_per_node
    assert forecast(JOB, rates, replace(cluster, cores=int(cores) + 1)).seconds["loader_wait"] == 0
    too_few = min(num_gpus, 8) + (cores - min(num_gpus, 8)) * 0.9
    assert forecast(JOB, rates, replace(cluster, cores=too_few)).seconds["loader_wait"] > 0


def test_the_network_that_a_plan_needs_hides_the_gradients():
    cluster = replace(ONE, num_gpus=16, nvlink_bytes_per_second=1e15)
    needed = forecast(JOB, RATES, cluster).needs.network_bytes_per_second_per_node
    assert needed == pytest.approx(4e8 / (2 / 3 * 1000 / 16 / 4000))
    assert forecast(JOB, RATES, ONE).needs.network_bytes_per_second_per_node is None
