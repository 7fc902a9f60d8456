"""Memory, threads and files of a run over many short epochs: what grows with every epoch ends a long run.

    OMP_NUM_THREADS=1 python tests/growth.py --epochs 200 --backends native torch resident ffcv

Prints a curve of each figure, and how much it grew over the second half of the epochs. Threads are counted by the
kernel, those of C++ included. The worker processes of the torch backend count where there are any.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

import fastvit_train.train as training
from fastvit_train.config import Config
from kills import data_sets, start
from runs import tiny_run

BARS = " ▁▂▃▄▅▆▇█"


def processes() -> list[Path]:
    """This process and its children."""
    children = (Path("/proc/self/task") / str(os.getpid()) / "children").read_text().split()
    return [Path("/proc/self"), *(Path("/proc") / child for child in children)]


def measure() -> dict[str, float]:
    """The figures now."""
    found = processes()
    return {
        # What a process shares with others counts in part, so that forked workers do not count it again.
        "memory MB": sum(_proportional_kb(process) for process in found) / 1000,
        "threads": sum(len(list((process / "task").iterdir())) for process in found),
        "files": sum(len(list((process / "fd").iterdir())) for process in found),
        "processes": len(found),
    }


def _proportional_kb(process: Path) -> int:
    lines = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured_run(config: Config, log: Path) -> list[dict[str, float]]:
    """Train in another process; the figures after each epoch."""

    def prepare(pipe: int) -> None:
        evaluate_if_due = training.evaluate_if_due

        def measured(*args: object) -> None:
            evaluate_if_due(*args)
            os.write(pipe, json.dumps(measure()).encode() + b"\n")

        training.evaluate_if_due = measured

    process, pipe = start(config, log, prepare)
    with os.fdopen(pipe) as told:
        figures = [json.loads(line) for line in told]
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the run failed:\n{log.read_text()}")
    return figures


def sparkline(values: Iterable[float], width: int = 50) -> str:
    """The values as bars from 0 to the largest, of so many characters."""
    values = list(values)
    chosen = [values[number * len(values) // width] for number in range(width)]
    return "".join(BARS[round(8 * value / max(chosen))] for value in chosen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--backends", nargs="+", default=["native", "torch", "resident", "ffcv"])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    training.report.__globals__["draw_run"] = lambda folder: None
    torch.set_num_threads(1)
    figures: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = data_sets(work)
        for backend in options.backends:
            config = tiny_run(work / backend, replace(data, backend=backend, num_workers=2))
            config = replace(config, epochs=options.epochs, ema_half_life_epochs=0.5)
            figures[backend] = measured_run(config, work / f"{backend}.log")
            for name in figures[backend][0]:
                values = [epoch[name] for epoch in figures[backend]]
                half = len(values) // 2
                print(
                    f"{backend:<9} {name:<10} {sparkline(values)} {values[half]:>7.1f} at half, {values[-1]:>7.1f} at "
                    f"the end, {values[-1] - values[half]:+.1f}",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
