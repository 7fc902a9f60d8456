"""The command `fastvit-bench`."""

import sys

import tyro

from benchmarks.bench_loader import BenchLoader, bench_loader


def main() -> int:
    """Run the benchmark that the command line names; 0 when done, 1 after an error."""
    try:
        commands = {"loader": BenchLoader}
        config = tyro.extras.subcommand_cli_from_dict(commands, prog="fastvit-bench", description=__doc__)
        bench_loader(config)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"fastvit-bench: {error}", file=sys.stderr)
        return 1
    return 0
