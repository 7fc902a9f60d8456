"""Runs that are killed with SIGKILL at random moments, resumed, and compared with a run that was left in peace.

    OMP_NUM_THREADS=1 python tests/kills.py --kills 20 --backends native torch resident

Each kill has a run of its own: it is killed once, resumed with `resume="auto"`, and has to end with the same bits in
weights, averages, optimizer and random state, and with the same metrics, each step once. Every run is a process that
was forked from this one, which saves the seconds in which torch is imported.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fastvit_train.train as training
from benchmarks.accept.resume import same_bits
from conftest import make_raw_set
from fastvit_train import checkpoint
from fastvit_train.config import Config, DataConfig, ModelConfig, OptimConfig
from fastvit_train.metrics import read_metrics
from runs import tiny_run

# Where a run can be killed, as what is called there: "between epochs" is what follows the last step of an epoch.
MOMENTS = {
    "step": (training, "train_step"),
    "evaluation": (training, "evaluate"),
    "writing": (checkpoint, "save"),
    "between epochs": (training, "say_what_was_skipped"),
}
SAME_IN_METRICS = ("kind", "step", "epoch", "loss", "accuracy", "top1", "num_images", "lr")
# A process that resumes has first steps of its own: they count in no rate.
TIMES = ("train_seconds", "wait_seconds", "eval_seconds", "steady_seconds", "steady_images", "steady_flops")


class Calls(NamedTuple):
    """How often a moment comes in a run, and how long it lasts."""

    number: int
    seconds: float


class Kill(NamedTuple):
    """When a run is killed: so long after the call number `number` of a moment began."""

    moment: str
    number: int
    delay: float


def data_sets(folder: Path) -> DataConfig:
    """140 images to train on and 50 to evaluate on, of four classes."""
    return DataConfig(
        train=make_raw_set(folder / "train.beton", 140, num_classes=4).path,
        val=make_raw_set(folder / "val.beton", 50, num_classes=4, seed=1).path,
        crop="whole",
        resolution=32,
    )


def killed_run(folder: Path, data: DataConfig, backend: str) -> Config:
    """24 steps in 6 epochs with a checkpoint every 3 steps, with all that has a state."""
    return replace(
        tiny_run(folder, replace(data, backend=backend, num_workers=2)),
        epochs=6,
        checkpoint_every_steps=3,
        eval_every_epochs=2,
        log_every_steps=1,
        ema_half_life_epochs=0.5,
        model=ModelConfig(drop_path=0.2),
        optim=OptimConfig(lr=3e-3, clip_norm=1.0),
    )


def start(config: Config, log: Path, prepare: Callable[[int], object]) -> tuple[int, int]:
    """Fork a process that trains; returns its id and the end of a pipe that `prepare` has got the other end of."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    code = 1
    try:
        os.close(reading)
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
        finish = prepare(writing)
        training.train(config)
        if callable(finish):
            finish()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)


def intercept(moment: str, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` and `after` around what is called at the moment."""
    owner, name = MOMENTS[moment]
    function = getattr(owner, name)

    def around(*args: Any, **options: Any) -> Any:
        before()
        result = function(*args, **options)
        after()
        return result

    setattr(owner, name, around)


def in_peace(config: Config, log: Path) -> dict[str, Calls]:
    """Train without a kill, and count and time the moments."""

    def prepare(pipe: int) -> Callable[[], None]:
        times: dict[str, list[float]] = {moment: [] for moment in MOMENTS}
        begun = dict.fromkeys(MOMENTS, 0.0)
        for moment in MOMENTS:
            intercept(
                moment,
                lambda moment=moment: begun.update({moment: time.perf_counter()}),
                lambda moment=moment: times[moment].append(time.perf_counter() - begun[moment]),
            )
        calls = lambda: {moment: (len(all_), statistics.median(all_)) for moment, all_ in times.items()}  # noqa: E731
        return lambda: os.write(pipe, json.dumps(calls()).encode())

    process, pipe = start(config, log, prepare)
    with os.fdopen(pipe) as told:
        calls = json.loads(told.read() or "{}")
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the run without a kill failed:\n{log.read_text()}")
    return {moment: Calls(*values) for moment, values in calls.items()}


def kill(config: Config, log: Path, kill: Kill) -> None:
    """Train, and send SIGKILL at the moment."""

    def prepare(pipe: int) -> None:
        calls = iter(range(10**9))
        intercept(kill.moment, lambda: os.write(pipe, b"x") if next(calls) == kill.number else None, lambda: None)

    process, pipe = start(config, log, prepare)
    with os.fdopen(pipe, "rb", buffering=0) as told:
        told.read(1)
        time.sleep(kill.delay)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"the run ended before it was killed:\n{log.read_text()}")


def resume(config: Config, log: Path) -> None:
    """Train on to the end."""
    process, pipe = start(replace(config, resume="auto"), log, lambda _: None)
    os.close(pipe)
    if os.waitpid(process, 0)[1]:
        raise SystemExit(f"the resumed run failed:\n{log.read_text()}")


def differences(mine: Path, other: Path) -> list[str]:
    """What two finished runs do not have in common that they should."""
    states = [checkpoint.load(folder / "checkpoint.pt") for folder in (mine, other)]
    for state in states:
        for name in TIMES:
            del state["progress"][name]
    found = [
        name
        for name in ("model", "ema", "optimizer", "progress", "random_states")
        if not same_bits(states[0][name], states[1][name])
    ]
    lines = [
        [{name: line.get(name) for name in SAME_IN_METRICS} for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (mine, other)
    ]
    return found + (["metrics"] if lines[0] != lines[1] else [])


def moments(calls: dict[str, Calls], num_kills: int, seed: str) -> Iterator[Kill]:
    """Random moments, of each kind equally many."""
    generator = random.Random(seed)
    for number in range(num_kills):
        moment = list(MOMENTS)[number % len(MOMENTS)]
        yield Kill(
            moment, generator.randrange(calls[moment].number), generator.uniform(0, max(calls[moment].seconds, 2e-3))
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills for each backend")
    parser.add_argument("--backends", nargs="+", default=["native", "torch", "resident"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    training.report.__globals__["draw_run"] = lambda folder: None  # takes longer than the run
    torch.set_num_threads(1)
    num_different = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = data_sets(work)
        print("backend   kill moment          call  after ms  resumed at step  result")
        for backend in options.backends:
            whole = killed_run(work / backend / "whole", data, backend)
            calls = in_peace(whole, work / "whole.log")
            for number, moment in enumerate(moments(calls, options.kills, f"{backend} {options.seed}"), start=1):
                config = replace(whole, out=work / backend / str(number))
                log = work / f"{backend}-{number}.log"
                kill(config, log, moment)
                resume(config, log)
                found = differences(config.out, whole.out)
                num_different += bool(found)
                at = log.read_text().partition("continuing from ")[2].partition("at step ")[2].split("\n")[0] or "0"
                print(
                    f"{backend:<9} {number:>4} {moment.moment:<14} {moment.number + 1:>6} {1e3 * moment.delay:>9.1f} "
                    f"{at:>16}  {'DIFFERENT: ' + ', '.join(found) if found else 'same bits'}",
                    flush=True,
                )
    return int(num_different > 0)


if __name__ == "__main__":
    sys.exit(main())
