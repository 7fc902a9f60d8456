"""The verdict of `fastvit-bench train`: what limits a preset here, how far the other side is, and what to change.

A run takes a batch from the loader and makes a step of it. Whichever is slower alone limits it. The headroom of each is
how much faster than the run it is alone: that of the limit is near 1. On a GPU the two overlap. On the CPU they share
the cores: each image costs what both take, and the run is slower than either.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.intervals import median_ratio
from benchmarks.row_files import Row
from loaders.cpus import usable_cpus

__all__ = ["CONTENDERS", "print_verdict", "ratio_of_rounds", "verdict_of"]

CONTENDERS = ("train", "step", "loader")
"""Whose rows it takes."""

_NEAR_CEILING = 0.8
_BUSY = 0.9
_OVERLAPPING = 0.95


def verdict_of(rows: Sequence[Row], data: Path) -> Row | None:
    """The part of a row that says what limits a run.

    Args:
        rows: Of all contenders.
        data: The images, for the commands that it names.

    Returns:
        None where a contender of `CONTENDERS` is missing.
    """
    found = {row["contender"]: row for row in rows}
    if not found.keys() >= set(CONTENDERS):
        return None
    train, step, loader = (found[name] for name in CONTENDERS)
    verdict = {
        "contender": "verdict",
        "bottleneck": "loader" if loader["images_per_second"] < step["images_per_second"] else "step",
        **ratio_of_rounds("loader_headroom", loader, train),
        **ratio_of_rounds("step_headroom", step, train),
        "loader_cores": loader["cpu_seconds_per_image"] * step["images_per_second"],
        "share_of_matmul_ceiling": train["ratio_to_matmuls"],
        "share_of_matmul_ceiling_interval": train["ratio_to_matmuls_interval"],
    }
    low, high = median_ratio(loader["rounds"], step["rounds"]).interval
    doubt = ["Loader and step are about as fast: which one limits the run is within the noise."] * (low < 1 < high)
    advise = _advice_on_loader if verdict["bottleneck"] == "loader" else _advice_on_step
    advice = [*doubt, *advise(verdict, step, loader, data), *_advice_on_both(train, step, loader)]
    return verdict | {"advice": advice}


def ratio_of_rounds(name: str, row: Row, other: Row | None) -> Row:
    """The part of a row that says how its speed relates to another's, round by round.

    Args:
        name: The figure's; its interval is called after it.
        row: The contender's.
        other: The other's; None where there is no such contender.
    """
    ratio = None if other is None else median_ratio(row["rounds"], other["rounds"])
    return {name: ratio and ratio.value, f"{name}_interval": ratio and ratio.interval}


def _advice_on_loader(verdict: Row, step: Row, loader: Row, data: Path) -> Iterator[str]:
    needed, threads, cpus = verdict["loader_cores"], loader["threads"], usable_cpus()
    yield (
        f"The step could take {step['images_per_second']:,.0f} images/s, which the loader needs {needed:.1f} cores "
        f"for; it has {threads} threads, and this machine has {cpus} cores."
    )
    if threads < min(needed, cpus):
        yield f"Load with more threads: --data.num-workers {min(math.ceil(needed), cpus)}."
    if loader["backend"] != "native":
        yield f"Compare the backend {loader['backend']} with native: add --backend native."
    yield f"See what makes loading these images cheaper: fastvit-bench doctor {data} --preset {loader['preset']}"


def _advice_on_step(verdict: Row, step: Row, loader: Row, _: Path) -> Iterator[str]:
    share = step["ratio_to_matmuls"]
    if share is None:
        yield "Add the contender matmuls, which shows how much faster the step could be on this machine."
    elif share < _NEAR_CEILING:
        yield (
            f"The step runs at {share:.0%} of the rate of its matmuls alone: --sweep looks for a batch size, compile "
            "mode, layout and precision that are faster."
        )
    else:
        yield (
            f"The step runs at {share:.0%} of the rate of its matmuls alone: only fewer operations make it much "
            "faster, such as those of a smaller --data.resolution, --phases or --model.patch-drop."
        )
    enough = math.ceil(verdict["loader_cores"])
    if step["device"] == "cuda" and enough < loader["threads"]:
        yield f"The loader keeps up with {enough} of its {loader['threads']} threads: the others are free."


def _advice_on_both(train: Row, step: Row, loader: Row) -> Iterator[str]:
    if train["device"] == "cpu":
        share = loader["cpu_seconds_per_image"] / train["cpu_seconds_per_image"]
        yield f"Loader and step share the cores: loading takes {share:.1%} of the CPU time of a run."
        return
    slower = min(step["images_per_second"], loader["images_per_second"])
    if (overlap := train["images_per_second"] / slower) < _OVERLAPPING:
        yield (
            f"The run reaches {overlap:.0%} of its slower side: batches do not always come in time; try "
            "--data.prefetch-batches 4."
        )
    if (busy := step["device_busy_fraction"]) is not None and busy < _BUSY:
        yield (
            f"The GPU computes in {busy:.0%} of the step's time and waits for the host else: try --cuda-graph on, or a "
            "larger --batch-size."
        )


def print_verdict(verdict: Row) -> None:
    """Print it, a sentence a line."""
    limit = verdict["bottleneck"]
    other = "step" if limit == "loader" else "loader"
    print(
        f"bottleneck: the {limit}, alone {verdict[f'{limit}_headroom']:,.2f} times as fast as the run; the {other} "
        f"alone is {verdict[f'{other}_headroom']:,.2f} times as fast"
    )
    if (share := verdict["share_of_matmul_ceiling"]) is not None:
        print(f"utilisation: {share:.1%} of the rate of the step's matmuls alone")
    for sentence in verdict["advice"]:
        print(f"- {sentence}")
