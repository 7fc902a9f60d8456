"""Training side by side: ours with and without its loader, the loader alone, the step's matmuls, timm's."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import say
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
    speed_columns,
)
from benchmarks.train.sweep import Choice, print_sweep, reason_of_failure, search, swept_options
from benchmarks.train.verdict import print_verdict, ratio_of_rounds, verdict_of
from benchmarks.train.work import Work, measure
from fastvit_train.cli import changed
from fastvit_train.compilation import can_compile
from fastvit_train.config import CompileMode, Config, Precision
from fastvit_train.device import DTYPES, dtype_of, has_bf16_matmul
from fastvit_train.distributed import device_kind
from fastvit_train.flops import flops_per_image
from fastvit_train.models import build_model
from fastvit_train.presets import build_preset, preset_of
from fastvit_train.schedule import Phase, phase_of
from fastvit_train.teacher import teacher_flops_per_image
from loaders.cpus import usable_cpus
from loaders.errors import FastvitError

__all__ = ["CONTENDERS", "BenchTrain", "bench_train", "model_flops_per_image"]

_PRESET = "cifar10-vit-small-fast"


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
    """Optimizer steps in a round; when not given, enough for a second, and at least 4, as the loader alone always has:
    of the few that it has ready when a round begins, nobody could tell how fast it is."""
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
    timms = ("timm", *(["timm-amp-bf16"] if has_bf16 else []), *(["timm-compiled"] if can_compile(device) else []))
    return "train", "step", "loader", "matmuls", *timms


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


def bench_train(config: BenchTrain) -> list[Row]:
    """Run the benchmark, print what it found and return its rows.

    Raises:
        OSError: The file for the rows cannot be written, which shows before anything is measured.
        RuntimeError: A contender failed; what was measured before is printed and written.
        FastvitError: None of the settings of a sweep could be measured.
    """
    rows: list[Row] = []
    setting = _setting(config)
    if config.json is not None:
        append_rows(config.json, [])
    with tempfile.TemporaryDirectory() as folder:
        if config.sweep is not None:
            rows = search(config.choice, config.swept, partial(_sweep_row, config, setting, Path(folder)))
            _write(config, rows)
            print_sweep(rows)
            return rows
        try:
            for measured in _measured(config, setting, Path(folder)):
                rows += measured
        finally:
            rows = _concluded(config, setting, rows) if rows else []
    return rows


def _measured(config: BenchTrain, setting: Row, folder: Path) -> Iterator[list[Row]]:
    """The rows of the contenders, of those together that take turns."""
    on_cuda = config.torch_device.type == "cuda"  # whose memory is to be the contender's own
    for names in [[name] for name in config.names] if on_cuda else [config.names]:
        yield measured_rows(
            "train",
            {name: partial(_prepare, name, config, folder) for name in names},
            partial(measure, rounds=config.rounds, steps=config.steps),
            lambda name, turns: {"contender": name, **setting, **costs(turns[name])},
            json=None,
        )


def _concluded(config: BenchTrain, setting: Row, rows: Sequence[Row]) -> list[Row]:
    """Relate the rows of a run to each other, print and write them, and the verdict where there is one."""
    matmuls = next((row for row in rows if row["contender"] == "matmuls"), None)
    where = origin()
    rows = [{**_related(row, rows[0], matmuls), **where} for row in rows]
    _print(rows)
    if verdict := verdict_of(rows, config.training.data.train):
        print_verdict(verdict)
        rows.append({"benchmark": "train", **setting, **verdict, **where})
    _write(config, rows)
    return rows


def _related(row: Row, first: Row, matmuls: Row | None) -> Row:
    trains = row["contender"] not in ("loader", "matmuls")
    return {
        **row,
        **ratio_of_rounds("ratio_to_first", row, first),
        **ratio_of_rounds("ratio_to_matmuls", row, matmuls if trains else None),
        "model_flops_per_second": row["flops_per_image"] * row["images_per_second"] if trains else None,
    }


def _write(config: BenchTrain, rows: Sequence[Row]) -> None:
    if config.json is not None:
        append_rows(config.json, rows)


def _sweep_row(config: BenchTrain, setting: Row, folder: Path, choice: Choice) -> Row:
    """Measure the steps of a choice, in a process of its own, or say why they cannot be made."""
    say(f"settings: {choice.text()}")
    row = {"contender": "step", **setting, **asdict(choice), "images_per_second": None, "problem": None}
    try:
        changed = replace(config, **asdict(choice), sweep=None)
        (measured,) = measured_rows(
            "train-sweep",
            {"step": partial(_prepare, "step", changed, folder)},
            partial(measure, rounds=config.rounds, steps=config.steps),
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
    """`flops_per_image` of the preset's model and its teacher, in the phase that is measured."""
    training = config.training
    model = build_model(
        training.arch,
        num_classes=1,
        resolution=training.data.resolution,
        config=training.model,
        phases=training.phases,
    )
    return flops_per_image(model, config.phase) + teacher_flops_per_image(training, config.phase.resolution)


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
