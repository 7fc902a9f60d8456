"""The model: hours, shares and needs of a job on so many GPUs. docs/scaling.md has it in formulas."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from benchmarks.plan.job import Job
from benchmarks.plan.rates import Rates
from fastvit_train.schedule import Phase

__all__ = [
    "SHARES",
    "Cluster",
    "Forecast",
    "Needs",
    "StepTime",
    "all_reduce_seconds",
    "forecast",
    "hit_fraction",
    "step_time",
]

Limit = Literal["step", "launch", "network", "loader", "storage"]

SHARES = ("step", "network_wait", "loader_wait", "storage_wait", "evaluation", "startup", "checkpoints")
"""What the time of a run goes to."""

_BACKWARD = 2 / 3
"""Share of a step in which gradients appear, so that they can be sent: backward takes twice what forward does."""
_BUCKET_BYTES = 25 * 2**20
"""Gradients that DistributedDataParallel sends at a time."""
_LATENCY_SECONDS = 10e-6
"""Of an all-reduce, for each doubling of the number of GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a job is to run on; None is no limit."""

    num_gpus: int
    gpus_per_node: int
    cores: int | None
    """Of a node."""
    bytes_per_image: float
    storage_bytes_per_second: float | None
    """That a node gets."""
    cache_bytes: float
    """Memory of a node that keeps what was read."""
    nvlink_bytes_per_second: float
    """Of a GPU within its node."""
    network_bytes_per_second: float
    """Of a node."""

    @property
    def num_nodes(self) -> int:
        """Machines that have these GPUs."""
        return math.ceil(self.num_gpus / self.gpus_per_node)

    @property
    def gpus_of_node(self) -> int:
        """GPUs of each of them."""
        return min(self.num_gpus, self.gpus_per_node)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What keeps all GPUs at their own speed, in the phase that needs most."""

    loader_images_per_second_per_node: float
    cores_per_node: float
    storage_bytes_per_second_per_node: float
    """While nothing is kept in memory: in the first epoch at least."""
    network_bytes_per_second_per_node: float | None
    """That hides the gradients behind the backward pass; None with one node, which sends none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run takes."""

    seconds: dict[str, float]
    """By `SHARES`."""
    limited_by: Limit
    """What sets the time of a step in most of the training."""
    needs: Needs

    @property
    def hours(self) -> float:
        """The whole run."""
        return sum(self.seconds.values()) / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds of a step, by what it needs."""

    compute: float
    """Matmuls and all else that the device does."""
    launch: float
    """For the host to queue it, at the same time."""
    network: float
    """For gradients to be sent, as far as the backward pass does not hide it."""
    loader: float
    storage: float
    on_cpu: bool
    """The loader takes its time from the same cores."""

    @property
    def device(self) -> float:
        """Of a step whose batch is there."""
        return max(self.compute, self.launch) + self.network

    def shares(self) -> dict[str, float]:
        """What it goes to, by `SHARES`."""
        loading = self.loader if self.on_cpu else 0.0
        wait = max(0.0, self.loader - self.device, self.storage - self.device - loading)
        waits_for_storage = self.storage > self.loader
        return {
            "step": max(self.compute, self.launch),
            "network_wait": self.network,
            "loader_wait": loading if self.on_cpu else 0.0 if waits_for_storage else wait,
            "storage_wait": wait if waits_for_storage else 0.0,
        }

    @property
    def limit(self) -> Limit:
        """What makes it as long as it is."""
        shares = self.shares()
        if shares["storage_wait"]:
            return "storage"
        if shares["loader_wait"] > (self.device if self.on_cpu else 0.0):
            return "loader"
        if self.network > max(self.compute, self.launch):
            return "network"
        return "launch" if self.launch > self.compute else "step"


def forecast(job: Job, rates: Rates, cluster: Cluster) -> Forecast:
    """What the job takes on the cluster."""
    seconds = dict.fromkeys(SHARES, 0.0)
    limits: defaultdict[Limit, float] = defaultdict(float)
    for number, epoch in enumerate(job.epochs):
        step = step_time(job, rates, cluster, epoch.phase, hit_fraction=hit_fraction(job, cluster, epoch=number))
        shares = step.shares()
        for name, of_step in shares.items():
            seconds[name] += epoch.num_steps * of_step
        limits[step.limit] += epoch.num_steps * sum(shares.values())
    seconds["evaluation"] = job.num_evaluations * _evaluation_seconds(job, rates, cluster)
    seconds["startup"] = rates.rest_seconds + rates.first_steps_seconds * len(rates.phases)
    written = job.num_checkpoints * job.checkpoint_bytes + job.num_evaluations * job.best_bytes
    seconds["checkpoints"] = written / rates.disk_bytes_per_second
    return Forecast(
        seconds=seconds,
        limited_by=max(limits, key=lambda limit: limits[limit]),
        needs=_needs(job, rates, cluster),
    )


def step_time(job: Job, rates: Rates, cluster: Cluster, phase: Phase, *, hit_fraction: float) -> StepTime:
    """The seconds of a step.

    Args:
        job: Whose step it is.
        rates: How fast everything goes.
        cluster: Who makes it.
        phase: In which it is.
        hit_fraction: Share of the images that are in memory already.
    """
    batch = job.config.batch_size
    of_phase = rates.phases[phase]
    compute = batch / cluster.num_gpus / of_phase.images_per_second
    launch = rates.host_seconds_per_step if cluster.num_gpus > 1 else 0.0
    loading = 0.0
    if cluster.cores is not None:
        loading = batch / cluster.num_nodes / _loader_rate(rates, cluster, phase)
    storage = 0.0
    if cluster.storage_bytes_per_second is not None:
        read = batch / cluster.num_nodes * cluster.bytes_per_image * (1 - hit_fraction)
        storage = read / cluster.storage_bytes_per_second
    return StepTime(
        compute=compute,
        launch=launch,
        network=_exposed(job, cluster, step=max(compute, launch)),
        loader=loading,
        storage=storage,
        on_cpu=rates.on_cpu,
    )


def all_reduce_seconds(num_bytes: float, cluster: Cluster) -> float:
    """Time to sum gradients over all GPUs: a ring within each node, and one of the nodes."""
    gpus, nodes = cluster.gpus_of_node, cluster.num_nodes
    within = 2 * (gpus - 1) / gpus * num_bytes / cluster.nvlink_bytes_per_second
    between = 2 * (nodes - 1) / nodes * num_bytes / cluster.network_bytes_per_second
    return within + between + _num_buckets(num_bytes) * _LATENCY_SECONDS * math.log2(cluster.num_gpus)


def hit_fraction(job: Job, cluster: Cluster, *, epoch: int) -> float:
    """Share of an epoch's images that a node has read before and kept: each epoch it gets others by chance."""
    seen = 1 - (1 - 1 / cluster.num_nodes) ** epoch
    return min(seen, cluster.cache_bytes / (job.num_images * cluster.bytes_per_image))


def _num_buckets(num_bytes: float) -> int:
    return max(1, math.ceil(num_bytes / _BUCKET_BYTES))


def _exposed(job: Job, cluster: Cluster, *, step: float) -> float:
    """What is left of the all-reduce when the backward pass is done: at least its last bucket."""
    if cluster.num_gpus == 1:
        return 0.0
    seconds = all_reduce_seconds(job.gradient_bytes, cluster)
    hidden = _BACKWARD * step / job.num_parts  # the parts before the last one send nothing
    return max(seconds - hidden, seconds / _num_buckets(job.gradient_bytes))


def _loader_rate(rates: Rates, cluster: Cluster, phase: Phase) -> float:
    """Images per second that the cores of a node load: all but one for each GPU, whose host queues its steps."""
    assert cluster.cores is not None
    cores = cluster.cores if rates.on_cpu else max(1, cluster.cores - cluster.gpus_of_node)
    return cores * rates.phases[phase].loader_images_per_second_per_core


def _evaluation_seconds(job: Job, rates: Rates, cluster: Cluster) -> float:
    device = job.num_val_images / (cluster.num_gpus * rates.evaluation_images_per_second)
    if rates.on_cpu or cluster.cores is None:
        return device  # on the CPU, the rate was measured with the loader
    return max(device, job.num_val_images / (cluster.num_nodes * _loader_rate(rates, cluster, job.last_phase)))


def _needs(job: Job, rates: Rates, cluster: Cluster) -> Needs:
    batch, nodes = job.config.batch_size, cluster.num_nodes
    images, cores, network = 0.0, 0.0, 0.0
    for phase, of_phase in rates.phases.items():
        step = step_time(job, rates, cluster, phase, hit_fraction=1.0)
        images = max(images, batch / nodes / step.device)
        cores = max(cores, batch / nodes / step.device / of_phase.loader_images_per_second_per_core)
        sent = 2 * (nodes - 1) / nodes * job.gradient_bytes
        network = max(network, sent / (_BACKWARD * max(step.compute, step.launch) / job.num_parts))
    return Needs(
        loader_images_per_second_per_node=images,
        cores_per_node=cores + (0 if rates.on_cpu else cluster.gpus_of_node),
        storage_bytes_per_second_per_node=images * cluster.bytes_per_image,
        network_bytes_per_second_per_node=network if nodes > 1 else None,
    )
