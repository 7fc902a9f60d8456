"""The command `fastvit-bench`."""

import sys
from collections.abc import Callable

import tyro


def main() -> int:
    """Run the benchmark that the command line names; 0 when done, 1 after an error."""
    try:
        from benchmarks.bench_loader import BenchLoader, bench_loader  # here, as a library may be missing

        commands: dict[str, Callable[..., BenchLoader]] = {"loader": BenchLoader}
        bench_loader(tyro.extras.subcommand_cli_from_dict(commands, prog="fastvit-bench", description=__doc__))
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"fastvit-bench: {error}", file=sys.stderr)
        return 1
    return 0
