"""What a run tells: JSON lines always, a live line on a terminal, plain lines elsewhere."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fastvit_train.run_folder import METRICS
from loaders.atomic_file import atomic_file

__all__ = ["Metrics", "Totals", "finite_or_null", "flop_rate", "read_metrics"]


class Totals:
    """Sums of loss, hits and images that stay on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss (scalar), logits [b, classes] and labels int64 [b]."""
        hits = (logits.detach().argmax(dim=1) == labels).sum()
        count = torch.full_like(hits, len(labels))
        self._sums += torch.stack([loss.detach().double() * len(labels), hits.double(), count.double()])

    def merge(self, sums: Tensor) -> None:
        """Add the `sums` of other totals."""
        self._sums += sums

    def sums(self) -> Tensor:
        """Summed loss, hits and images: float64 [3], on the device."""
        return self._sums


class Metrics:
    """Writes a run's metrics to `metrics.jsonl` and shows them; only the main rank does either."""

    def __init__(self, folder: Path, *, is_main: bool, num_steps: int) -> None:
        self._path = folder / METRICS
        self._is_main = is_main
        self.listeners: list[Callable[[str, int, Mapping[str, float]], None]] = []
        """Called with the kind, the step and the figures of every line that is logged."""
        self._console = Console(quiet=not is_main, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not (is_main and self._console.is_terminal),
        )
        self._task = self._progress.add_task("train", total=num_steps, epoch=0, figures="")

    def __enter__(self) -> "Metrics":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start_at(self, step: int) -> None:
        """Drop the lines that an interrupted run wrote after the checkpoint that it continues from."""
        self._progress.update(self._task, completed=step)
        if not self._is_main:
            return
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        with atomic_file(self._path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def say(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, markup=False)

    def log(self, kind: str, *, step: int, epoch: int, **figures: float | None) -> None:
        """Append one line of kind `train` or `eval` and show it."""
        if not self._is_main:
            return
        line = {"kind": kind, "step": step, "epoch": epoch, **figures, "time": time.time()}
        self._append(json.dumps(finite_or_null(line), allow_nan=False).encode() + b"\n")
        known = {name: value for name, value in figures.items() if value is not None}
        for listen in self.listeners:
            listen(kind, step, {"epoch": epoch, **known})
        text = "  ".join(_shown(name, value) for name, value in known.items())
        self._progress.update(self._task, completed=step, epoch=epoch)
        if kind == "train" and not self._progress.disable:
            self._progress.update(self._task, figures=text)
        else:
            self.say(f"{kind:<5} epoch {epoch} step {step}  {text}")

    def _append(self, line: bytes) -> None:
        """Add a line as a whole, or none where the disk is full: half a line would spoil the next one."""
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) == len(line):
                    return
                reason = "the disk is full"
            except OSError as error:
                reason = error.strerror or str(error)
            file.truncate(size)
        self.say(f"WARNING     {self._path} cannot be written: {reason}; the next line is on the screen alone")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that was cut short is left out; [] when there is no file."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finite_or_null(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with null for what JSON has no number for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def flop_rate(flops_per_second: float) -> str:
    """A number of operations per second, in the unit that suits it."""
    if flops_per_second < 1e12:
        return f"{flops_per_second / 1e9:,.0f} GFLOP/s"
    return f"{flops_per_second / 1e12:,.1f} TFLOP/s"


def _shown(name: str, value: float) -> str:
    if name.endswith(("_fraction", "_utilization")) or name in ("accuracy", "top1", "top1_averaged"):
        return f"{name.removesuffix('_fraction').replace('_', ' ')} {100 * value:.2f} %"
    if name.endswith("_seconds"):
        return f"{name.removesuffix('_seconds').replace('_', ' ')} {value / 60:.1f} min"
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes').replace('_', ' ')} {value / 2**30:.2f} GiB"
    if name == "model_flops_per_second":
        return flop_rate(value)
    return f"{name.replace('_', ' ')} {value:.4g}" if name != "images_per_second" else f"{value:,.0f} images/s"
