"""Training side by side: ours with and without its loader, the loader alone, the step's matrix products, timm's."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Contender, Turn, counted_rounds, started
from benchmarks.peers.timm_train import AMP_DTYPES, TimmTraining
from benchmarks.products import record_products
from benchmarks.rows import (
    Row,
    about,
    appended_rows,
    cost_columns,
    costs,
    median_ratio,
    print_table,
    speed_columns,
    split_names,
)
from fastvit_train.config import Config
from fastvit_train.data import build_loaders
from fastvit_train.device import has_bf16_matmul, keep_freed_memory
from fastvit_train.distributed import start_world
from fastvit_train.metrics import Totals
from fastvit_train.models import build_model, set_patch_drop
from fastvit_train.models.plain_attention import use_plain_attention
from fastvit_train.prefetch import Prefetcher
from fastvit_train.presets import build_preset
from fastvit_train.run import start_run
from fastvit_train.schedule import Phase, phase_of
from fastvit_train.train import train_step


def _contenders_of_this_machine() -> tuple[str, ...]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "train", "step", "loader", "products", "timm", *(["timm-amp-bf16"] if has_bf16_matmul(device) else [])


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrain:
    """Measure where a preset's training time goes, and how far from the machine's limit it is."""

    preset: str = "cifar10-vit-small-fast"
    """The preset whose steps are measured."""
    data: Path | None = None
    """Training images; as the preset has it when not given."""
    contenders: tuple[str, ...] = field(default_factory=_contenders_of_this_machine)
    """Which, separated by spaces or commas: train, the preset as it is; step, the same on noise that is in memory;
    loader alone; products, the step's matrix products alone, attention's too; timm, timm-amp and timm-amp-bf16, timm's
    train.py on the same model and batch in its three precisions. timm-amp computes in float16, for which most CPUs have
    no products, as older ones have none for bf16: a step then takes ten to a hundred times as long as in float32."""
    at: float = 1.0
    """Share of the run at which to measure, for presets with phases."""
    batch_size: int | None = None
    """Images per step; as the preset has it when not given."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    threads: int = 2
    """Threads of torch and of the loader."""
    rounds: int = 5
    """How often each is measured, taking turns, after a warm-up."""
    steps: int = 4
    """Optimizer steps in a round."""
    json: Path | None = None
    """Append a line of JSON per contender to this file."""

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.at <= 1:
            raise ValueError(f"at must lie in [0, 1], got {self.at}")
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
        return replace(config, data=data, device=self.device, batch_size=self.batch_size or config.batch_size)

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


class Training:
    """Our trainer, some steps at a time.

    Args:
        config: What is measured.
        folder: For the run's files.
        backend: The loader, if not the preset's.
        compiles: Whether the model is compiled where the preset has it so.
    """

    def __init__(self, config: BenchTrain, folder: Path, *, backend: str | None = None, compiles: bool = True) -> None:
        training = config.training
        training = replace(
            training,
            data=replace(training.data, backend=backend or training.data.backend),
            compile=training.compile if compiles else "off",
        )
        self._cleanup = ExitStack()
        world = self._cleanup.enter_context(start_world(config.device))
        if world.device.type == "cpu":
            keep_freed_memory()
        self._loader, _, num_classes = build_loaders(training, world)
        self.run = start_run(training, world, folder, self._loader, num_classes)
        self.run.model.train()
        self.run.progress.epoch = config.epoch
        self._phase = config.phase
        set_patch_drop(self.run.model, self._phase.patch_drop)

    def start(self) -> int:
        """Have the loader make its first batches, one of which is dropped."""
        self._loader.set_epoch(self.run.progress.epoch, resolution=self._phase.resolution)
        self._batches = iter(Prefetcher(self._loader, self.run.world.device))
        return len(next(self._batches).labels)

    def steps(self, number: int) -> int:
        """Train for so many steps; returns how many images that were."""
        run, totals, num_images = self.run, Totals(self.run.world.device), 0
        for images, labels, index in islice(self._batches, number):
            train_step(run, images, labels, index, totals)
            run.progress.step += 1
            num_images += len(labels)
        totals.sums().tolist()  # waits for the device
        return num_images


class Loading(Training):
    """The loader alone."""

    def steps(self, number: int) -> int:
        """Take so many batches."""
        return sum(len(batch.labels) for batch in islice(self._batches, number))


class Products(Training):
    """The matrix products of a training step, its optimizer's included, one after the other."""

    def __init__(self, config: BenchTrain, folder: Path) -> None:
        super().__init__(config, folder, backend="synthetic", compiles=False)
        use_plain_attention(self.run.model)
        self.start()
        super().steps(1)
        self._repeat = record_products(partial(super().steps, 1))

    def steps(self, number: int) -> int:
        """Do the products of so many steps."""
        for _ in range(number):
            self._repeat()
        if self.run.world.device.type == "cuda":
            torch.cuda.synchronize()
        return number * self.run.config.batch_size


def _timm(config: BenchTrain, folder: Path, *, amp_dtype: torch.dtype | None) -> TimmTraining:  # noqa: ARG001
    training, phase = config.training, config.phase
    with start_world(config.device) as world:
        loader, _, num_classes = build_loaders(training, world)
        loader.set_epoch(0, resolution=phase.resolution)
        batches = list(islice(loader, config.steps + 1))
        loader.close()
    model = build_model(
        training.arch,
        num_classes=num_classes,
        resolution=training.data.resolution,
        config=replace(training.model, bf16_residual=False),
        phases=training.phases,
    ).to(world.device)
    set_patch_drop(model, phase.patch_drop)
    return TimmTraining(
        model,
        torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).cpu().numpy(),
        torch.cat([batch.labels for batch in batches]).cpu().numpy(),
        batch_size=training.batch_size,
        device=world.device,
        amp_dtype=amp_dtype,
    )


CONTENDERS: dict[str, Callable[[BenchTrain, Path], Work]] = {
    "train": Training,
    "step": partial(Training, backend="synthetic"),
    "loader": Loading,
    "products": Products,
    **{name: partial(_timm, amp_dtype=dtype) for name, dtype in AMP_DTYPES.items()},
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


def bench_train(config: BenchTrain) -> list[Row]:
    """Run the benchmark, print a table and return its rows.

    Raises:
        RuntimeError: A contender failed.
    """
    with appended_rows(config.json) as rows, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subjects = {name: partial(_prepare, name, config, folder) for name in config.names}
        contenders = stack.enter_context(started(subjects))
        for contender in contenders.values():
            _turn(contender, config.steps)
        turns: dict[str, list[Turn]] = {name: [] for name in contenders}
        for _ in counted_rounds(config.rounds):
            for name, contender in contenders.items():
                turns[name].append(_turn(contender, config.steps))
        origin, flops = about(), flops_per_image(config)
        rows += [_row(name, config, turns, flops) | origin for name in contenders]
    _print(rows)
    return rows


def flops_per_image(config: BenchTrain) -> float:
    """Floating-point operations of the model's products for an image, forward and backward; a multiply-add is two."""
    training, phase = config.training, config.phase
    model = build_model(
        training.arch,
        num_classes=1,
        resolution=training.data.resolution,
        config=training.model,
        phases=training.phases,
    ).train()
    set_patch_drop(model, phase.patch_drop)
    use_plain_attention(model)
    images = torch.zeros(2, 3, phase.resolution, phase.resolution)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return float(counter.get_total_flops()) / len(images)


def _row(name: str, config: BenchTrain, turns: dict[str, list[Turn]], flops: float) -> Row:
    mine, products = turns[name], turns.get("products")
    speed = costs(mine)
    trains = name not in ("loader", "products")
    return {
        "contender": name,
        "preset": config.preset,
        "resolution": config.phase.resolution,
        "patch_drop": config.phase.patch_drop,
        "batch_size": config.training.batch_size,
        "device": config.device,
        "threads": config.threads,
        **speed,
        "ratio_to_first": median_ratio(mine, turns[config.names[0]]),
        "ratio_to_products": median_ratio(mine, products) if products and trains else None,
        "flops_per_image": flops,
        "model_flops_per_second": flops * speed["images_per_second"] if trains else None,
    }


def _print(rows: list[Row]) -> None:
    first = rows[0]
    columns = {
        "contender": [row["contender"] for row in rows],
        **speed_columns(rows),
        f"ratio to {first['contender']}": [f"{row['ratio_to_first']:.3f}" for row in rows],
        "share of products' rate": [
            f"{row['ratio_to_products']:.1%}" if row["ratio_to_products"] else "" for row in rows
        ],
        "GFLOP/s": [
            f"{row['model_flops_per_second'] / 1e9:,.0f}" if row["model_flops_per_second"] else "" for row in rows
        ],
        **cost_columns(rows),
    }
    where = f"{first['threads']} threads, {first['flops_per_image'] / 1e9:.2f} GFLOP per image"
    drop = f", {first['patch_drop']:.0%} of the patches dropped" if first["patch_drop"] else ""
    title = f"{first['preset']}, {first['batch_size']} images at {first['resolution']} px{drop}, {where}"
    print_table(title, columns, first["machine"])
