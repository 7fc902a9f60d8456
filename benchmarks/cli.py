"""The command `fastvit-bench`."""

import sys
from collections.abc import Callable

import tyro

__all__ = ["main"]


def main() -> int:
    """Run the benchmark that the command line names; 0 when done, 1 after an error."""
    try:
        from benchmarks.bench_augment import BenchAugment, bench_augment  # here, as a library may be missing
        from benchmarks.bench_convert import BenchConvert, bench_convert
        from benchmarks.bench_loader import BenchLoader, bench_loader
        from benchmarks.bench_train import BenchTrain, bench_train

        commands: dict[str, Callable[..., BenchLoader | BenchTrain | BenchAugment | BenchConvert]] = {
            "loader": BenchLoader,
            "train": BenchTrain,
            "augment": BenchAugment,
            "convert": BenchConvert,
        }
        config = tyro.extras.subcommand_cli_from_dict(commands, prog="fastvit-bench", description=__doc__)
        if isinstance(config, BenchLoader):
            bench_loader(config)
        elif isinstance(config, BenchTrain):
            bench_train(config)
        elif isinstance(config, BenchAugment):
            bench_augment(config)
        else:
            bench_convert(config)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"fastvit-bench: {error}", file=sys.stderr)
        return 1
    return 0
