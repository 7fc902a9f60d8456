"""How fast the parts of a run go: as given, or as rows of benchmarks/results have it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.plan.job import Job
from benchmarks.row_files import Row, read_rows
from fastvit_train.flops import peak_flops_per_second
from fastvit_train.presets import build_preset
from fastvit_train.schedule import Phase
from loaders.errors import FastvitError

__all__ = ["PhaseRates", "Rates", "committed_rows", "loader_rate", "rates_as_given", "rates_of_card"]

_RESULTS = Path(__file__).parents[1] / "results"
# Random crops to 224 px from photos of at most 500 px with restart markers, as `fastvit-data write-ffcv` stores them.
_LOADER_ROWS, _LOADER_DATA = "zen4_2026-11-27_loaders.jsonl", "photos_restart.beton"
# Where no row has the model: of ViT-B/16 on an H200, in h200_2026-11-27_accept.jsonl and h200_2026-11-27_before.jsonl.
_REST_SECONDS, _FIRST_STEPS_SECONDS, _HOST_SECONDS = 11.0, 37.0, 0.024
_DISK_BYTES_PER_SECOND = 1e9


class PhaseRates(NamedTuple):
    """How fast images of a phase go."""

    images_per_second: float
    """Training on one GPU, or on the CPU, with all data in memory."""
    loader_images_per_second_per_core: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How fast one GPU and its machine are."""

    source: str
    """Where they come from, in words."""
    phases: dict[Phase, PhaseRates]
    evaluation_images_per_second: float
    """Of one GPU; an image counts once, however many views of it there are."""
    host_seconds_per_step: float = _HOST_SECONDS
    """What the host needs to queue a step for one of several GPUs, however few images that has: a single one has its
    steps from CUDA graphs, which take it next to nothing."""
    rest_seconds: float = _REST_SECONDS
    """Until the first step begins, and from the last one to the end of the program."""
    first_steps_seconds: float = _FIRST_STEPS_SECONDS
    """What the first steps of a phase take longer than others, compilation above all."""
    disk_bytes_per_second: float = _DISK_BYTES_PER_SECOND
    """At which checkpoints are written."""
    on_cpu: bool = False
    """Loading takes time from the cores that train, instead of working next to them."""


def committed_rows() -> list[Row]:
    """All rows of benchmarks/results."""
    return [row for path in sorted(_RESULTS.glob("*.jsonl")) for row in read_rows(path)]


def loader_rate() -> float:
    """Images per second that one core loads, as a committed row has it."""
    rows = read_rows(_RESULTS / _LOADER_ROWS)
    return next(
        1 / float(row["cpu_seconds_per_image"])
        for row in rows
        if (row["loader"], row["case"], row["data"]) == ("native", "train", _LOADER_DATA)
    )


def rates_as_given(job: Job, images_per_second: float, *, per_core: float) -> Rates:
    """Rates from what one GPU trains and one core loads.

    Args:
        job: Its other phases, and its evaluation, take time in proportion to their floating-point operations.
        images_per_second: Of one GPU, in the phase that the run ends with.
        per_core: Images per second that one core loads.
    """
    return _rates(
        job,
        job.flops_per_image[job.last_phase] * images_per_second,
        per_core=per_core,
        source=f"{images_per_second:,.0f} images/s of one GPU at {job.last_phase.resolution} px, as given",
    )


def rates_of_card(job: Job, card: str, rows: Sequence[Row], *, per_core: float) -> Rates:
    """Rates of a card from rows that were measured on it, or on another whose matmuls are as much faster or slower.

    Args:
        job: What is to be run.
        card: As `torch.cuda.get_device_name` has it.
        rows: Where to look.
        per_core: Images per second that one core loads.

    Raises:
        FastvitError: The model was measured nowhere, or the table of matmul rates does not have the card.
    """
    of_model = [row for row in rows if _is_step_of(row, job.config.arch)]
    steps = [row for row in of_model if "flops_per_image" in row and not _is_without_graph(row)]
    if not steps:
        raise FastvitError(
            f"no row in benchmarks/results says how fast a GPU trains {job.config.arch}; give "
            "--images-per-second-per-gpu, or measure this machine with --measure"
        )
    row = max(steps, key=lambda row: (_card(row) == card, row["date"]))
    measured, source = _card(row), ""
    factor = 1.0
    if measured != card:
        factor = _matmul_rate(card) / _matmul_rate(measured)
        source = f", times {factor:.2f} for {card}, the ratio of the matmul rates that makers give"
    rate = float(row["images_per_second"])
    hosts = [
        row["host_milliseconds"] / 1e3 for row in of_model if _is_without_graph(row) and "host_milliseconds" in row
    ]
    return _rates(
        job,
        factor * rate * float(row["flops_per_image"]),
        per_core=per_core,
        source=f"{rate:,.0f} images/s at {row['resolution']} px on one {measured}, {row['date'][:10]}{source}",
        host_seconds_per_step=min(hosts, default=_HOST_SECONDS),
    )


def _rates(
    job: Job,
    flops_per_second: float,
    *,
    per_core: float,
    source: str,
    host_seconds_per_step: float = _HOST_SECONDS,
) -> Rates:
    trained = {epoch.phase for epoch in job.epochs}
    return Rates(
        source=source,
        phases={phase: PhaseRates(flops_per_second / job.flops_per_image[phase], per_core) for phase in trained},
        evaluation_images_per_second=flops_per_second / job.evaluation_flops_per_image,
        host_seconds_per_step=host_seconds_per_step,
    )


def _is_step_of(row: Row, arch: str) -> bool:
    """Whether a row says how fast a GPU makes steps of a model on noise that is in memory."""
    if not ((row.get("machine") or {}).get("gpu") and row.get("images_per_second") and row.get("preset")):
        return False
    on_noise = row.get("backend", "synthetic") == "synthetic" and row.get("contender", "step") == "step"
    return on_noise and (row.get("arch") or build_preset(row["preset"]).arch) == arch


def _is_without_graph(row: Row) -> bool:
    """Whether the steps of a row were not made from CUDA graphs; before there were these, rows do not say so."""
    if row["benchmark"] == "train":
        return False
    return row.get("variant", row.get("cuda_graph", "off")) in ("no CUDA graph", "off")


def _card(row: Row) -> str:
    return str(row["machine"]["gpu"]["name"])


def _matmul_rate(card: str) -> float:
    rate = peak_flops_per_second(card, torch.bfloat16)
    if rate is None:
        raise FastvitError(
            f"how fast {card!r} multiplies in bf16 is not known (fastvit_train/flops.py has the cards that are); give "
            "--images-per-second-per-gpu"
        )
    return rate
