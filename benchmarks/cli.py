"""The command `fastvit-bench`."""

import sys
from collections.abc import Callable

import tyro


def main() -> int:
    """Run the benchmark that the command line names; 0 when done, 1 after an error."""
    try:
        from benchmarks.bench_convert import BenchConvert, bench_convert  # here, as a library may be missing
        from benchmarks.bench_loader import BenchLoader, bench_loader

        commands: dict[str, Callable[..., BenchLoader | BenchConvert]] = {
            "loader": BenchLoader,
            "convert": BenchConvert,
        }
        config = tyro.extras.subcommand_cli_from_dict(commands, prog="fastvit-bench", description=__doc__)
        if isinstance(config, BenchConvert):
            bench_convert(config)
        else:
            bench_loader(config)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"fastvit-bench: {error}", file=sys.stderr)
        return 1
    return 0
