"""Training side by side: ours with and without its loader, the loader alone, the step's matmuls, timm's."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.harness import Contender, Turn, say, take_turns
from benchmarks.options import check_positive, split_names
from benchmarks.peers.our_training import Loading, Matmuls, Training, on_noise
from benchmarks.peers.timm_train import TIMM_OPTIONS, TimmOptions, timm_training
from benchmarks.row_files import Row, append_rows
from benchmarks.rows import (
    cost_columns,
    costs,
    measured_rows,
    origin,
    print_table,
    ratio_column,
    ratios,
    speed_columns,
)
from benchmarks.train.sweep import Choice, print_sweep, reason_of_failure, search, swept_options
from benchmarks.train.verdict import print_verdict, verdict_of
from fastvit_train.cli import changed
from fastvit_train.compilation import has_cpp_compiler
from fastvit_train.config import CompileMode, Config, Precision
from fastvit_train.device import DTYPES, dtype_of, has_bf16_matmul
from fastvit_train.distributed import device_kind
from fastvit_train.flops import flops_per_image
from fastvit_train.models import build_model
from fastvit_train.presets import build_preset, preset_of
from fastvit_train.schedule import Phase, phase_of
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["CONTENDERS", "BenchTrain", "Work", "bench_train", "model_flops_per_image"]

_PRESET = "cifar10-vit-small-fast"
_LEAST_STEPS, _ROUND_SECONDS = 4, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrain:
    """Measure where a preset's training time goes, how far from the machine's limit it is, and what would help."""

    preset: str | None = None
    """The preset whose steps are measured; when not given, cifar10-vit-small-fast, or that of arch."""
    arch: str | None = None
    """Another model than the preset's."""
    data: Path | None = None
    """Training images; as the preset has it when not given."""
    backend: str | None = None
    """The loader, as in `fastvit-train --data.backend`; as the preset has it when not given."""
    resolution: int | None = None
    """Side of the images in pixels, without the preset's phases; as the preset has it when not given."""
    contenders: tuple[str, ...] | None = None
    """Which, separated by spaces or commas: train, the preset as it is; step, the same on noise that is in memory;
    loader alone; matmuls, the step's matmuls and convolutions alone, attention's too; timm, timm-amp and timm-amp-bf16,
    timm's train.py on the same model and batch in its three precisions; timm-compiled, its --torchcompile and
    --channels-last, with --amp-dtype bfloat16 where the device multiplies that. timm-amp computes in float16, which
    most CPUs cannot multiply, as older ones cannot bf16: a step then takes ten to a hundred times as long as in
    float32. When not given, all that are no slower than that on this device. With train, step and loader comes a
    verdict: what limits the run, and what to change."""
    at: float = 1.0
    """Share of the run at which to measure, for presets with phases."""
    batch_size: int | None = None
    """Images per step; as the preset has it when not given."""
    accumulate: int | None = None
    """Parts that a batch is computed in; as the preset has it when not given."""
    compile: CompileMode | None = None
    """torch.compile mode of `fastvit-train --compile`; as the preset has it when not given."""
    precision: Precision | None = None
    """As in `fastvit-train --precision`; as the preset has it when not given."""
    channels_last: bool = True
    """Images and the weights of convolutions are laid out channels last, as `fastvit-train` has them; else first."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one. On cuda the contenders are measured one after the other, each in the
    whole memory of the card; on the CPU they take turns."""
    threads: int = field(default_factory=usable_cpus)
    """Threads of torch and of the loader; when not given, as many as the CPUs that this process may use."""
    rounds: int = 5
    """How often each is measured after a warm-up."""
    steps: int | None = None
    """Optimizer steps in a round; when not given, enough for a second, and at least 4."""
    sweep: tuple[str, ...] | None = None
    """Instead of the contenders: look for the settings in which a step is fastest, one option after the other. Which of
    precision, compile, channels_last and batch_size, in this order when none is named; values may follow, such as
    batch_size=256,512 or channels_last=yes,no."""
    json: Path | None = None
    """Append a line of JSON per contender, or per setting of the sweep, to this file."""

    def __post_init__(self) -> None:
        check_positive(self, "accumulate", "threads", "rounds", "steps")
        if not 0 <= self.at <= 1:
            raise FastvitError(f"at must lie in [0, 1], got {self.at}")
        if self.resolution is not None and self.at != 1:
            raise FastvitError(f"at must stay 1 with resolution, which leaves the phases out, got {self.at}")
        if self.sweep is not None:
            if self.contenders is not None:
                raise FastvitError("sweep measures the contender step alone: leave --contenders or --sweep out")
            _ = self.swept
        _ = self.names, self.training

    @property
    def names(self) -> list[str]:
        """The contenders, in the order of their turns."""
        wanted = _contenders_of(self.torch_device) if self.contenders is None else self.contenders
        return split_names(wanted, CONTENDERS, kind="contender")

    @property
    def torch_device(self) -> torch.device:
        """What steps are made on."""
        return torch.device(device_kind(self.device))

    @property
    def training(self) -> Config:
        """The run whose steps are measured: what `fastvit-train` makes of these options."""
        given = {
            "data.train": self.data,
            "data.val": self.data,
            "data.backend": self.backend,
            "data.resolution": self.resolution,
            "phases": None if self.resolution is None else (),
            "data.num_workers": None if self.backend == "synthetic" else self.threads,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "compile": self.compile,
            "precision": self.precision,
            "device": self.device,
        }
        return changed(self._preset, {name: value for name, value in given.items() if value is not None})

    @property
    def _preset(self) -> Config:
        if self.arch is None:
            return build_preset(self.preset or _PRESET)
        return build_preset(self.preset or preset_of(self.arch, resolution=self.resolution), arch=self.arch)

    @property
    def epoch(self) -> int:
        """The epoch that is measured."""
        epochs = self.training.epochs
        return min(int(self.at * epochs), max(0, int(epochs) - 1))

    @property
    def phase(self) -> Phase:
        """What that epoch trains at."""
        return phase_of(self.training, self.epoch)

    @property
    def choice(self) -> Choice:
        """The settings that a sweep starts from."""
        training = self.training
        return Choice(
            precision=self.computed_precision,
            compile=training.compile,
            channels_last=self.channels_last,
            batch_size=training.batch_size,
        )

    @property
    def computed_precision(self) -> Precision:
        """What auto is on this device."""
        training = self.training
        if training.precision != "auto":
            return training.precision
        dtype = dtype_of(training, self.torch_device)
        return next(name for name in _PRECISIONS if DTYPES[name] == dtype)

    @property
    def swept(self) -> dict[str, list[object]]:
        """What a sweep varies, with its values."""
        return swept_options(self.sweep or (), self.choice, self.torch_device)


_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")


def _contenders_of(device: torch.device) -> tuple[str, ...]:
    has_bf16 = has_bf16_matmul(device)
    can_compile = device.type == "cuda" or has_cpp_compiler()
    timms = ("timm", *(["timm-amp-bf16"] if has_bf16 else []), *(["timm-compiled"] if can_compile else []))
    return "train", "step", "loader", "matmuls", *timms


class Work(Protocol):
    """What a contender does."""

    def start(self) -> int:
        """What is not measured before each round; returns a number of images, as all work does."""

    def steps(self, number: int) -> int:
        """So many steps."""


def _timm(config: BenchTrain, _: Path, *, options: TimmOptions) -> Work:
    return timm_training(config.training, epoch=config.epoch, num_workers=config.threads, options=options)


def _ours(config: BenchTrain, folder: Path, *, kind: type[Training], is_noise: bool = False) -> Work:
    training = on_noise(config.training) if is_noise else config.training
    return kind(training, folder, epoch=config.epoch, channels_last=config.channels_last)


CONTENDERS: dict[str, Callable[[BenchTrain, Path], Work]] = {
    "train": partial(_ours, kind=Training),
    "step": partial(_ours, kind=Training, is_noise=True),
    "loader": partial(_ours, kind=Loading),
    "matmuls": partial(_ours, kind=Matmuls, is_noise=True),
    **{name: partial(_timm, options=options) for name, options in TIMM_OPTIONS.items()},
}


def _prepare(name: str, config: BenchTrain, folder: Path) -> Work:
    torch.set_num_threads(config.threads)
    return CONTENDERS[name](config, folder)


def _start(work: Work) -> int:
    return work.start()


def _steps(work: Work, number: int) -> int:
    return work.steps(number)


def _turn(contender: Contender[Work], num_steps: int) -> Turn:
    contender.run(_start)
    return contender.run(partial(_steps, number=num_steps))


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
    """Run the benchmark, print what it found and return its rows.

    Raises:
        RuntimeError: A contender failed.
        FastvitError: None of the settings of a sweep could be measured.
    """
    setting = _setting(config)
    with tempfile.TemporaryDirectory() as folder:
        if config.sweep is not None:
            return _sweep(config, setting, Path(folder))
        rows = measured_rows(
            "train",
            {name: partial(_prepare, name, config, Path(folder)) for name in config.names},
            partial(_measure, config),
            partial(_row, config.names[0], setting),
            json=config.json,
            together=config.torch_device.type == "cpu",
        )
    _print(rows)
    if verdict := verdict_of(rows, config.training.data.train):
        print_verdict(verdict)
        rows.append(verdict)
        if config.json is not None:
            append_rows(config.json, [verdict])
    return rows


def _sweep(config: BenchTrain, setting: Row, folder: Path) -> list[Row]:
    if config.json is not None:
        append_rows(config.json, [])  # whether it can be written shows before anything is measured
    rows = search(config.choice, config.swept, partial(_sweep_row, config, setting, folder))
    if config.json is not None:
        append_rows(config.json, rows)
    print_sweep(rows)
    return rows


def _sweep_row(config: BenchTrain, setting: Row, folder: Path, choice: Choice) -> Row:
    """Measure the steps of a choice, in a process of its own, or say why they cannot be made."""
    say(f"settings: {choice.text()}")
    row = {"contender": "step", **setting, **asdict(choice), "images_per_second": None, "problem": None}
    try:
        changed = replace(config, **asdict(choice), sweep=None)
        (measured,) = measured_rows(
            "train-sweep",
            {"step": partial(_prepare, "step", changed, folder)},
            partial(_measure, changed),
            lambda name, turns: row | costs(turns[name]),
            json=None,
        )
    except (FastvitError, RuntimeError) as error:
        say(str(error))
        return {"benchmark": "train-sweep", **row, "problem": reason_of_failure(error), **origin()}
    return measured


def _setting(config: BenchTrain) -> Row:
    """The part of a row that says what was measured, the same for all contenders."""
    training = config.training
    return {
        "preset": training.preset,
        "arch": training.arch,
        "backend": training.data.backend,
        "resolution": config.phase.resolution,
        "patch_drop": config.phase.patch_drop,
        "batch_size": training.batch_size,
        "accumulate": training.accumulate,
        "compile": training.compile,
        "precision": config.computed_precision,
        "channels_last": config.channels_last,
        "device": config.torch_device.type,
        "threads": config.threads,
        "flops_per_image": model_flops_per_image(config),
    }


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


def _row(first: str, setting: Row, name: str, turns: dict[str, list[Turn]]) -> Row:
    mine, matmuls = turns[name], turns.get("matmuls")
    speed = costs(mine)
    trains = name not in ("loader", "matmuls")
    return {
        "contender": name,
        **setting,
        **speed,
        **ratios("ratio_to_first", mine, turns[first]),
        **ratios("ratio_to_matmuls", mine, matmuls if trains else None),
        "model_flops_per_second": setting["flops_per_image"] * speed["images_per_second"] if trains else None,
    }


def _print(rows: Sequence[Row]) -> None:
    first = rows[0]
    columns = {
        "contender": [row["contender"] for row in rows],
        **speed_columns(rows),
        f"ratio to {first['contender']}": ratio_column("ratio_to_first", rows),
        "of matmuls": [f"{row['ratio_to_matmuls']:.1%}" if row["ratio_to_matmuls"] else "" for row in rows],
        "GFLOP/s": [
            f"{row['model_flops_per_second'] / 1e9:,.0f}" if row["model_flops_per_second"] else "" for row in rows
        ],
        **cost_columns(rows),
    }
    what = f"{first['preset']} ({first['arch']}, {first['backend']}, {first['precision']})"
    where = f"{first['threads']} threads, {first['flops_per_image'] / 1e9:.2f} GFLOP per image"
    drop = f", {first['patch_drop']:.0%} of the patches dropped" if first["patch_drop"] else ""
    title = f"{what}, {first['batch_size']} images at {first['resolution']} px{drop}, {where}"
    print_table(title, columns, rows)
