"""The command `fastvit-bench`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import tyro

from loaders.command import run_command
from loaders.errors import FastvitError

__all__ = ["main"]

_PROG = "fastvit-bench"
# Each NAME is a module bench_NAME with its options, BenchName, and the function bench_name that takes them.
_BENCHMARKS = {
    "loader": "loaders side by side on one file",
    "scaling": "loaders with more threads, or with more records",
    "imread": "libraries that decode whole JPEGs in memory, side by side",
    "suite": "the loaders in all cases, how they scale, and whole images, into one file of rows",
    "train": "where a preset's training time goes",
    "inference": "images per second, latency, memory and accuracy of trained models",
    "augment": "augmentations side by side",
    "convert": "converters side by side on the same images",
    "doctor": "what to expect on your own data and machine, and what to change",
    "plan": "hours, energy and price of the full job, and what it needs",
    "accept": "what a machine with a new card does, within a given time",
    "reference": "the reference experiments: train, resume, measure and report all of a table",
    "report": "rows of benchmarks and run folders as one page",
}


def main() -> int:
    """Run the benchmark that the command line names; 0 when done, 1 after an error, 130 after Ctrl-C."""
    return run_command(_run, name=_PROG, interrupted=f"{_PROG}: interrupted")


def _run() -> int:
    name, arguments = _split(sys.argv[1:])
    try:
        module = import_module(f"benchmarks.bench_{name}")  # here, as a library may be missing, and as it takes seconds
        options = tyro.cli(getattr(module, f"Bench{name.capitalize()}"), prog=f"{_PROG} {name}", args=arguments)
        result = getattr(module, f"bench_{name}")(options)  # rows, but for a benchmark with exit codes of its own
        return result if isinstance(result, int) else 0
    except RuntimeError as error:
        raise FastvitError(str(error)) from error


def _split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The benchmark's name, and the rest of the command line."""
    parser = argparse.ArgumentParser(prog=_PROG, description="Measure fastvit and others side by side.")
    benchmarks = parser.add_subparsers(dest="name", required=True, metavar="BENCHMARK", title="benchmarks")
    for name, line in _BENCHMARKS.items():
        benchmarks.add_parser(name, help=line, add_help=False)
    chosen, rest = parser.parse_known_args(arguments)
    return chosen.name, rest
