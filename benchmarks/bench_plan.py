"""What a preset's full job takes on so many GPUs: hours, energy, price, and what they need of loaders and storage."""

import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.noise import NoiseWatch
from benchmarks.options import check_positive
from benchmarks.plan.forecast import Cluster, Forecast, forecast
from benchmarks.plan.job import Job, describe_job
from benchmarks.plan.measure import measure_rates
from benchmarks.plan.rates import Rates, committed_rows, loader_rate, rates_as_given, rates_of_card
from benchmarks.row_files import Row, append_rows
from benchmarks.rows import print_columns
from fastvit_train.config import Config
from fastvit_train.data import open_set, share_of_batch
from fastvit_train.presets import build_preset
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["BenchPlan", "bench_plan"]

_NUM_IMAGES, _NUM_VAL_IMAGES = 880_000, 50_000
_BYTES_PER_IMAGE = 54_451.0
"""Of ImageNet's photos at no more than 500 px: docs/benchmarks.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchPlan:
    """Say what a preset takes on the full job, from measured or given rates; nothing is trained but by --measure.

    Without --images-per-second-per-gpu and --measure, rates are those of a card in benchmarks/results.
    docs/scaling.md has the model.
    """

    preset: str = "imagenet-vit-b16-130"
    """The preset that is planned."""
    arch: str | None = None
    """Another model than the preset's."""
    epochs: float | None = None
    """Length of the run; as the preset has it when not given."""
    batch_size: int | None = None
    """Images per step, over all GPUs; as the preset has it when not given."""
    batch_size_per_gpu: int | None = None
    """Images per step and GPU, in place of --batch-size: larger batches on more GPUs, for which the preset's learning
    rate was not made."""
    data: Path | None = None
    """Training images, whose number and bytes are planned for, and which --measure loads; 880,000 JPEGs of at most 500
    px when not given."""
    val: Path | None = None
    """Validation images; 50,000 when not given. --measure evaluates on them."""
    gpus: tuple[int, ...] = (1,)
    """A plan for each of these numbers of GPUs."""
    gpus_per_node: int = 8
    """GPUs of a machine; fewer GPUs than that are in one machine."""
    gpu: str = "NVIDIA H200"
    """Whose rates are taken from benchmarks/results, as torch.cuda.get_device_name has it. A card that is not there has
    the rates of one that is, times the ratio of the matmul rates that their makers give."""
    images_per_second_per_gpu: float | None = None
    """What one GPU trains in the phase that the preset ends with, with all data in memory."""
    measure: bool = False
    """Measure all rates on this machine; takes seconds on a GPU, and up to two minutes on a CPU. Needs the data."""
    cores: int | None = None
    """CPU cores of a machine. When not given, those of this one with --measure, else as many as are needed."""
    images_per_second_per_core: float | None = None
    """What one core loads; when not given, as measured, or as benchmarks/results has it for JPEGs of at most 500 px."""
    storage_bytes_per_second: float | None = None
    """What a machine reads from its storage; when not given, as much as is needed."""
    cache_bytes: float = 0
    """Memory of a machine that keeps what was read: 0 reads all images in every epoch."""
    nvlink_bytes_per_second: float = 3.6e11
    """What a GPU sends to the others of its machine; the default is 80 % of an H100's or H200's 450 GB/s."""
    network_bytes_per_second: float = 3.2e11
    """What a machine sends to others; the default is 80 % of eight ports of 400 Gb/s."""
    watts_per_gpu: float | None = None
    """Power of a GPU at work with its share of the machine, for the energy; a DGX H200 takes up to 10,200 for eight."""
    price: float | None = None
    """Of a GPU for an hour."""
    json: Path | None = None
    """Append a line of JSON per number of GPUs to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "batch_size_per_gpu", "gpus_per_node", "cores")
        for name in _POSITIVE:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise FastvitError(f"{name} must be positive, got {value:g}")
        if not self.cache_bytes >= 0:
            raise FastvitError(f"cache_bytes must not be negative, got {self.cache_bytes:g}")
        if not self.gpus or min(self.gpus) < 1:
            raise FastvitError(f"gpus must be positive numbers, got {' '.join(map(str, self.gpus)) or 'none'}")
        if self.batch_size is not None and self.batch_size_per_gpu is not None:
            raise FastvitError("give one of --batch-size and --batch-size-per-gpu")
        if self.measure and (self.data is None or self.val is None):
            raise FastvitError("--measure loads and evaluates: give it --data and --val")
        if self.measure and self.images_per_second_per_gpu is not None:
            raise FastvitError("give one of --measure and --images-per-second-per-gpu")
        for num_gpus in self.gpus:
            self.training(num_gpus)

    def training(self, num_gpus: int) -> Config:
        """The run on so many GPUs.

        Raises:
            FastvitError: They cannot share its batch equally.
        """
        config = build_preset(self.preset, epochs=self.epochs, arch=self.arch)
        if config.distill.is_on:
            raise FastvitError(
                f"{self.preset} trains a teacher first, which a plan does not know; plan --preset "
                f"{config.distill.preset} and a recipe without a teacher, each by itself"
            )
        batch_size = self.batch_size or config.batch_size
        if self.batch_size_per_gpu is not None:
            batch_size = num_gpus * self.batch_size_per_gpu
        config = replace(config, batch_size=batch_size)
        share_of_batch(config, num_gpus)
        data = replace(config.data, train=self.data or config.data.train, val=self.val or config.data.val)
        return replace(config, data=data)


_POSITIVE = (
    "epochs",
    "images_per_second_per_gpu",
    "images_per_second_per_core",
    "storage_bytes_per_second",
    "nvlink_bytes_per_second",
    "network_bytes_per_second",
    "watts_per_gpu",
    "price",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """The data sets of a plan."""

    num_images: int = _NUM_IMAGES
    num_val_images: int = _NUM_VAL_IMAGES
    bytes_per_image: float = _BYTES_PER_IMAGE


def bench_plan(config: BenchPlan) -> list[Row]:
    """Make the plans, print a table and return its rows.

    Raises:
        FastvitError: The data or the rates are not there.
    """
    data = _data(config)
    jobs = {
        num_gpus: describe_job(
            config.training(num_gpus), num_images=data.num_images, num_val_images=data.num_val_images
        )
        for num_gpus in config.gpus
    }
    if config.json is not None:
        append_rows(config.json, [])  # whether it can be written shows before anything is measured
    with NoiseWatch() as watch:
        rates = _rates(config, next(iter(jobs.values())))
    origin = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
    if config.measure:
        first = next(iter(rates.phases.values()))
        origin["noise"] = watch.noise({"steps": [first.images_per_second]})  # measured once: there is no spread
    rows = [_row(config, data, job, rates, num_gpus) | origin for num_gpus, job in jobs.items()]
    if config.json is not None:
        append_rows(config.json, rows)
    _print(config, rows)
    return rows


def _data(config: BenchPlan) -> _Data:
    data = _Data()
    if config.data is not None:
        num_images = len(open_set(config.data).labels)
        data = replace(data, num_images=num_images, bytes_per_image=_num_bytes(config.data) / num_images)
    if config.val is not None:
        data = replace(data, num_val_images=len(open_set(config.val).labels))
    return data


def _num_bytes(path: Path) -> int:
    """The bytes of a file, a folder, or the files that a pattern names."""
    if path.is_file():
        return path.stat().st_size
    files = path.rglob("*") if path.is_dir() else path.parent.glob(path.name)
    return sum(file.stat().st_size for file in files if file.is_file())


def _rates(config: BenchPlan, job: Job) -> Rates:
    if config.measure:
        with tempfile.TemporaryDirectory() as folder:
            rates = measure_rates(job.config, Path(folder))
        if config.images_per_second_per_core is None:
            return rates
        given = config.images_per_second_per_core
        phases = {phase: rate._replace(loader_images_per_second_per_core=given) for phase, rate in rates.phases.items()}
        return replace(rates, phases=phases)
    per_core = config.images_per_second_per_core or loader_rate()
    if config.images_per_second_per_gpu is not None:
        return rates_as_given(job, config.images_per_second_per_gpu, per_core=per_core)
    return rates_of_card(job, config.gpu, committed_rows(), per_core=per_core)


def _row(config: BenchPlan, data: _Data, job: Job, rates: Rates, num_gpus: int) -> Row:
    cores = config.cores
    if cores is None and config.measure:
        cores = usable_cpus()
    cluster = Cluster(
        num_gpus=num_gpus,
        gpus_per_node=config.gpus_per_node,
        cores=cores,
        bytes_per_image=data.bytes_per_image,
        storage_bytes_per_second=config.storage_bytes_per_second,
        cache_bytes=config.cache_bytes,
        nvlink_bytes_per_second=config.nvlink_bytes_per_second,
        network_bytes_per_second=config.network_bytes_per_second,
    )
    plan = forecast(job, rates, cluster)
    gpu_hours = num_gpus * plan.hours
    return {
        "benchmark": "plan",
        "preset": config.preset,
        "arch": job.config.arch,
        "num_gpus": num_gpus,
        "num_images": data.num_images,
        "epochs": job.config.epochs,
        "batch_size": job.config.batch_size,
        "hours": plan.hours,
        "kilowatt_hours": None if config.watts_per_gpu is None else gpu_hours * config.watts_per_gpu / 1000,
        "price": None if config.price is None else gpu_hours * config.price,
        "shares": {name: seconds / 3600 / plan.hours for name, seconds in plan.seconds.items()},
        "limited_by": plan.limited_by,
        "images_per_second": _training_rate(job, plan),
        "needs": asdict(plan.needs),
        "assumptions": asdict(cluster) | _assumptions(job, rates, config),
    }


def _training_rate(job: Job, plan: Forecast) -> float:
    """Images per second of the training, waits included."""
    steps = sum(epoch.num_steps for epoch in job.epochs)
    waits = ("step", "network_wait", "loader_wait", "storage_wait")
    return steps * job.config.batch_size / sum(plan.seconds[name] for name in waits)


def _assumptions(job: Job, rates: Rates, config: BenchPlan) -> dict[str, Any]:
    values = asdict(rates) | {"num_val_images": job.num_val_images, "num_evaluations": job.num_evaluations}
    values |= {"num_checkpoints": job.num_checkpoints, "checkpoint_bytes": job.checkpoint_bytes}
    values["phases"] = [
        {
            "resolution": phase.resolution,
            "patch_drop": phase.patch_drop,
            "num_steps": sum(epoch.num_steps for epoch in job.epochs if epoch.phase == phase),
            "flops_per_image": job.flops_per_image[phase],
            **of_phase._asdict(),
        }
        for phase, of_phase in rates.phases.items()
    ]
    return values | {"watts_per_gpu": config.watts_per_gpu, "price_per_gpu_hour": config.price}


_SHARE_NAMES = {"network_wait": "network", "loader_wait": "loader", "storage_wait": "storage"}


def _print(config: BenchPlan, rows: list[Row]) -> None:
    first = rows[0]
    needs = [row["needs"] for row in rows]
    networks = [need["network_bytes_per_second_per_node"] for need in needs]
    columns = {
        "GPUs": [f"{row['num_gpus']:,}" for row in rows],
        "images a step": [f"{row['batch_size']:,}" for row in rows],
        "images/s": [f"{row['images_per_second']:,.0f}" for row in rows],
        "hours": [_hours(row["hours"]) for row in rows],
        "limited by": [row["limited_by"] for row in rows],
        "not in steps": [_rest(row["shares"]) for row in rows],
        "kWh": ["" if row["kilowatt_hours"] is None else f"{row['kilowatt_hours']:,.1f}" for row in rows],
        "price": ["" if row["price"] is None else f"{row['price']:,.2f}" for row in rows],
    }
    title = f"{config.preset}: {first['num_images']:,} images x {first['epochs']:g} epochs"
    print_columns(title, columns, caption=first["assumptions"]["source"])
    columns = {
        "GPUs": columns["GPUs"],
        "loader, images/s": [f"{need['loader_images_per_second_per_node']:,.0f}" for need in needs],
        "cores": [f"{need['cores_per_node']:,.1f}" for need in needs],
        "storage, MB/s": [f"{need['storage_bytes_per_second_per_node'] / 1e6:,.0f}" for need in needs],
        "network, Gb/s": ["" if network is None else f"{8e-9 * network:,.0f}" for network in networks],
    }
    caption = f"{first['assumptions']['bytes_per_image']:,.0f} bytes an image, none of them in memory"
    warnings = [f"Warning: {warning}" for warning in first.get("noise", {"warnings": []})["warnings"]]
    print_columns("what each machine needs so that no GPU waits", columns, caption=caption, notes=warnings)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.4f}"


def _rest(shares: dict[str, float]) -> str:
    """What else than steps the time goes to, the largest first, as far as it counts."""
    parts = sorted(((share, name) for name, share in shares.items() if name != "step" and share >= 0.005), reverse=True)
    return ", ".join(f"{_SHARE_NAMES.get(name, name)} {share:.1%}" for share, name in parts)
