"""Training side by side: ours with and without its loader, the loader alone, the step's matmuls, timm's."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.harness import Contender, Turn, take_turns
from benchmarks.options import check_positive, split_names
from benchmarks.peers.our_training import Loading, Matmuls, Training, on_noise
from benchmarks.peers.timm_train import TIMM_OPTIONS, TimmOptions, timm_training
from benchmarks.row_files import Row
from benchmarks.rows import cost_columns, costs, measured_rows, print_table, ratio_column, ratios, speed_columns
from fastvit_train.config import Config
from fastvit_train.device import has_bf16_matmul
from fastvit_train.flops import flops_per_image
from fastvit_train.models import build_model
from fastvit_train.presets import build_preset
from fastvit_train.schedule import Phase, phase_of
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["CONTENDERS", "BenchTrain", "Work", "bench_train", "model_flops_per_image"]

_LEAST_STEPS, _ROUND_SECONDS = 4, 1.0


def _contenders_of_this_machine() -> tuple[str, ...]:
    has_card = torch.cuda.is_available()
    has_bf16 = has_bf16_matmul(torch.device("cuda" if has_card else "cpu"))
    timms = ("timm", *(["timm-amp-bf16"] if has_bf16 else []), *(["timm-compiled"] if has_bf16 and has_card else []))
    return "train", "step", "loader", "matmuls", *timms


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrain:
    """Measure where a preset's training time goes, and how far from the machine's limit it is."""

    preset: str = "cifar10-vit-small-fast"
    """The preset whose steps are measured."""
    data: Path | None = None
    """Training images; as the preset has it when not given."""
    contenders: tuple[str, ...] = field(default_factory=_contenders_of_this_machine)
    """Which, separated by spaces or commas: train, the preset as it is; step, the same on noise that is in memory;
    loader alone; matmuls, the step's matmuls and convolutions alone, attention's too; timm, timm-amp and timm-amp-bf16,
    timm's train.py on the same model and batch in its three precisions; timm-compiled, its --amp-dtype bfloat16 with
    --torchcompile and --channels-last. timm-amp computes in float16, which most CPUs cannot multiply, as older ones
    cannot bf16: a step then takes ten to a hundred times as long as in float32."""
    at: float = 1.0
    """Share of the run at which to measure, for presets with phases."""
    batch_size: int | None = None
    """Images per step; as the preset has it when not given."""
    accumulate: int | None = None
    """Parts that a batch is computed in; as the preset has it when not given."""
    compile: str | None = None
    """torch.compile mode of `fastvit-train --compile`; as the preset has it when not given."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    threads: int = field(default_factory=usable_cpus)
    """Threads of torch and of the loader; when not given, as many as the CPUs that this process may use."""
    rounds: int = 5
    """How often each is measured, taking turns, after a warm-up."""
    steps: int | None = None
    """Optimizer steps in a round; when not given, enough for a second, and at least 4."""
    json: Path | None = None
    """Append a line of JSON per contender to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "accumulate", "threads", "rounds", "steps")
        if not 0 <= self.at <= 1:
            raise FastvitError(f"at must lie in [0, 1], got {self.at}")
        _ = self.names, self.training

    @property
    def names(self) -> list[str]:
        """The contenders, in the order of their turns."""
        return split_names(self.contenders, CONTENDERS, kind="contender")

    @property
    def training(self) -> Config:
        """The preset's config, for this machine."""
        config = build_preset(self.preset)
        data = replace(config.data, num_workers=self.threads)
        if self.data is not None:
            data = replace(data, train=self.data, val=self.data)
        given = {"batch_size": self.batch_size, "accumulate": self.accumulate, "compile": self.compile}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(config, data=data, device=self.device, **changes)

    @property
    def epoch(self) -> int:
        """The epoch that is measured."""
        epochs = build_preset(self.preset).epochs
        return min(int(self.at * epochs), max(0, int(epochs) - 1))

    @property
    def phase(self) -> Phase:
        """What that epoch trains at."""
        return phase_of(self.training, self.epoch)


class Work(Protocol):
    """What a contender does."""

    def start(self) -> int:
        """What is not measured before each round; returns a number of images, as all work does."""

    def steps(self, number: int) -> int:
        """So many steps."""


def _timm(config: BenchTrain, _: Path, *, options: TimmOptions) -> Work:
    return timm_training(config.training, epoch=config.epoch, options=options)


CONTENDERS: dict[str, Callable[[BenchTrain, Path], Work]] = {
    "train": lambda config, folder: Training(config.training, folder, epoch=config.epoch),
    "step": lambda config, folder: Training(on_noise(config.training), folder, epoch=config.epoch),
    "loader": lambda config, folder: Loading(config.training, folder, epoch=config.epoch),
    "matmuls": lambda config, folder: Matmuls(config.training, folder, epoch=config.epoch),
    **{name: partial(_timm, options=options) for name, options in TIMM_OPTIONS.items()},
}


def _prepare(name: str, config: BenchTrain, folder: Path) -> Work:
    torch.set_num_threads(config.threads)
    return CONTENDERS[name](config, folder)


def _start(work: Work) -> int:
    return work.start()


def _steps(work: Work, number: int) -> int:
    return work.steps(number)


def _give_memory_back(_: Work) -> int:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return 0


def _turn(contender: Contender[Work], num_steps: int) -> Turn:
    contender.run(_start)
    turn = contender.run(partial(_steps, number=num_steps))
    # All contenders share a card: what one needs for its steps is to be free for the next.
    contender.run(_give_memory_back)
    return turn


def _measure(config: BenchTrain, contenders: dict[str, Contender[Work]]) -> dict[str, list[Turn]]:
    num_steps = {name: _warm_up(contender, config.steps) for name, contender in contenders.items()}
    return take_turns(contenders, config.rounds, lambda name, _: _turn(contenders[name], num_steps[name]))


def _warm_up(contender: Contender[Work], num_steps: int | None) -> int:
    """Take steps that are not measured; returns how many a round is to have."""
    _turn(contender, num_steps or _LEAST_STEPS)
    if num_steps is not None:
        return num_steps
    return max(_LEAST_STEPS, math.ceil(_LEAST_STEPS * _ROUND_SECONDS / _turn(contender, _LEAST_STEPS).seconds))


def bench_train(config: BenchTrain) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A contender failed.
    """
    flops = model_flops_per_image(config)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured_rows(
            "train",
            {name: partial(_prepare, name, config, Path(folder)) for name in config.names},
            partial(_measure, config),
            partial(_row, config, flops),
            json=config.json,
        )
    _print(rows)
    return rows


def model_flops_per_image(config: BenchTrain) -> float:
    """`flops_per_image` of the preset's model, in the phase that is measured."""
    training = config.training
    model = build_model(
        training.arch,
        num_classes=1,
        resolution=training.data.resolution,
        config=training.model,
        phases=training.phases,
    )
    return flops_per_image(model, config.phase)


def _row(config: BenchTrain, flops: float, name: str, turns: dict[str, list[Turn]]) -> Row:
    mine, matmuls = turns[name], turns.get("matmuls")
    speed = costs(mine)
    trains = name not in ("loader", "matmuls")
    return {
        "contender": name,
        "preset": config.preset,
        "resolution": config.phase.resolution,
        "patch_drop": config.phase.patch_drop,
        "batch_size": config.training.batch_size,
        "accumulate": config.training.accumulate,
        "compile": config.training.compile,
        "device": config.device,
        "threads": config.threads,
        **speed,
        **ratios("ratio_to_first", mine, turns[config.names[0]]),
        **ratios("ratio_to_matmuls", mine, matmuls if trains else None),
        "flops_per_image": flops,
        "model_flops_per_second": flops * speed["images_per_second"] if trains else None,
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "contender": [row["contender"] for row in rows],
        **speed_columns(rows),
        f"ratio to {first['contender']}": ratio_column("ratio_to_first", rows, digits=3),
        "share of matmuls' rate": [f"{row['ratio_to_matmuls']:.1%}" if row["ratio_to_matmuls"] else "" for row in rows],
        "GFLOP/s": [
            f"{row['model_flops_per_second'] / 1e9:,.0f}" if row["model_flops_per_second"] else "" for row in rows
        ],
        **cost_columns(rows),
    }
    where = f"{first['threads']} threads, {first['flops_per_image'] / 1e9:.2f} GFLOP per image"
    drop = f", {first['patch_drop']:.0%} of the patches dropped" if first["patch_drop"] else ""
    title = f"{first['preset']}, {first['batch_size']} images at {first['resolution']} px{drop}, {where}"
    print_table(title, columns, rows)
