"""Inference of trained models side by side: images per second, latency, memory, and accuracy for what it costs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.harness import Turn, say
from benchmarks.inference.models import Source, facts, sources
from benchmarks.inference.serving import Case, Measured, Mode, Precision, Serving, measure
from benchmarks.options import check_positive
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, speed_columns
from fastvit_train.compilation import can_compile
from fastvit_train.device import has_bf16_matmul
from fastvit_train.distributed import device_kind
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["BenchInference", "bench_inference"]

_MODELS = ("vit_small_cifar@32", "resnet_fast_cifar@32", "resnet50_cifar@32", "vit_s16@224", "vit_b16@224")
"""Those of the reference experiments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchInference:
    """Measure how fast models classify, and what accuracy that buys.

    Each model classifies batches of noise that are on the device already, one after the other, each of which is waited
    for. Decoding, copying and normalising are no part of it.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders (best.pt, else checkpoint.pt) or checkpoints: their models, with the weights that the run evaluated
    and the accuracy that it found."""
    models: tuple[str, ...] = ()
    """Models with random weights, which are as fast, as ARCH@PX: vit_b16@224, timm/convnext_tiny@224. Without these and
    without runs, the models of the reference experiments: minutes on a GPU, most of an hour on two cores."""
    batch_sizes: tuple[int, ...] = (1, 256)
    """Images at once."""
    precisions: tuple[Precision, ...] | None = None
    """fp32 (TF32 on a GPU, as in training) or bf16, weights and all; when not given, both where the device multiplies
    bf16."""
    modes: tuple[Mode, ...] | None = None
    """eager or compiled by torch.compile, on a GPU with CUDA graphs; when not given, both where there is a compiler."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    threads: int = field(default_factory=usable_cpus)
    """Threads of torch; when not given, as many as the CPUs that this process may use."""
    rounds: int = 5
    """How often each is measured after a warm-up; the cases of a model and a batch size take turns."""
    seconds: float = 0.5
    """Least length of a round, which has at least one batch."""
    json: Path | None = None
    """Append a line of JSON per case to this file, as soon as those of a model and a batch size are measured."""

    def __post_init__(self) -> None:
        check_positive(self, "threads", "rounds")
        if self.seconds <= 0:
            raise FastvitError(f"seconds must be positive, got {self.seconds}")
        for name in ("batch_sizes", "precisions", "modes"):
            if getattr(self, name) == ():
                raise FastvitError(f"{name} must name at least one; leave it out for all")
        if min(self.batch_sizes) < 1:
            raise FastvitError(f"batch_sizes must be positive, got {min(self.batch_sizes)}")
        _ = self.sources

    @property
    def sources(self) -> list[Source]:
        """The models, in the order of the table."""
        return sources(self.runs, self.models or (() if self.runs else _MODELS))

    @property
    def torch_device(self) -> torch.device:
        """Where they classify."""
        return torch.device(device_kind(self.device))


def bench_inference(config: BenchInference) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        FastvitError: A checkpoint cannot be used, or the device lacks what is asked for.
        OSError: The file for the rows cannot be written, which shows before anything is measured.
        RuntimeError: A case failed; what was measured before is printed and written.
    """
    missing = _missing(config)
    for what, reason in missing.items():
        say(f"left out: {what}, as {reason}")
    found = [(source, facts(source)) for source in config.sources]
    rows: list[Row] = []
    try:
        for (source, model), batch_size in product(found, dict.fromkeys(config.batch_sizes)):
            say(f"{source.name}, {batch_size} at once")
            rows += _measured(config, source, model, _cases(config, batch_size, missing))
    finally:
        if rows:
            _print(rows, [f"Left out: {what}, as {reason}." for what, reason in missing.items()])
    return rows


def _missing(config: BenchInference) -> dict[str, str]:
    """What the device lacks, with the reason.

    Raises:
        FastvitError: It is asked for.
    """
    device, missing = config.torch_device, {}
    if not has_bf16_matmul(device):
        missing["bf16"] = f"this {device.type} does not multiply it in hardware"
    if not can_compile(device):
        compiler = "no C++ compiler (g++, or what CXX names)"
        missing["compiled"] = f"there is {compiler if device.type == 'cpu' else 'no Triton, or no C compiler for it'}"
    for name, wanted in (("precisions", config.precisions), ("modes", config.modes)):
        for value in wanted or ():
            if value in missing:
                raise FastvitError(f"{name} names {value}, but {missing[value]}; leave it out")
    return missing


def _cases(config: BenchInference, batch_size: int, missing: dict[str, str]) -> list[Case]:
    precisions: tuple[Precision, ...] = config.precisions or ("fp32", "bf16")
    modes: tuple[Mode, ...] = config.modes or ("eager", "compiled")
    return [
        Case(batch_size, precision, mode)
        for precision, mode in dict.fromkeys(product(precisions, modes))
        if precision not in missing and mode not in missing
    ]


def _measured(config: BenchInference, source: Source, model: Row, cases: Sequence[Case]) -> list[Row]:
    """The rows of cases that take turns."""
    by_name = {f"{source.name}, {case.name}": case for case in cases}
    device, threads, seconds = config.torch_device, config.threads, config.seconds
    return measured_rows(
        "inference",
        {
            name: partial(Serving, source, case, device=device, threads=threads, seconds=seconds)
            for name, case in by_name.items()
        },
        partial(measure, rounds=config.rounds),
        lambda name, measured: {**model, **_row(config, by_name[name], *measured[name])},
        json=config.json,
    )


def _row(config: BenchInference, case: Case, turns: Sequence[Turn], measured: Measured) -> Row:
    latencies = measured.latencies
    return {
        "batch_size": case.batch_size,
        "precision": case.precision,
        "compiled": case.mode == "compiled",
        "device": config.torch_device.type,
        "threads": config.threads,
        **costs(turns),
        "latency_seconds": statistics.median(latencies),
        "latency_seconds_p95": float(np.quantile(latencies, 0.95)),
        "num_calls": len(latencies),
        "compile_seconds": measured.compile_seconds,
    }


def _print(rows: Sequence[Row], notes: Sequence[str]) -> None:
    columns = {
        "model": [row["model"] for row in rows],
        "batch": [f"{row['batch_size']:,}" for row in rows],
        "precision": [row["precision"] for row in rows],
        "mode": ["compiled" if row["compiled"] else "eager" for row in rows],
        **speed_columns(rows),
        "latency ms": [f"{1000 * row['latency_seconds']:,.2f}" for row in rows],
        "95th percentile": [f"{1000 * row['latency_seconds_p95']:,.2f}" for row in rows],
        "compiling s": ["" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}" for row in rows],
        **cost_columns(rows),
    }
    first = rows[0]
    title = f"inference on {first['device']}, {first['threads']} threads"
    print_table(title, columns, rows, notes=[*dict.fromkeys(map(_described, rows)), *notes])


def _described(row: Row) -> str:
    top1 = "" if row["top1"] is None else f", top-1 {100 * row['top1']:.2f} %"
    size = f"{row['flops_per_image'] / 1e9:.2f} GFLOP per image, {row['num_parameters'] / 1e6:.1f} M parameters"
    return f"{row['model']}: {size}{top1}"
