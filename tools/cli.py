"""The command `fastvit-data`: each of the tools by its name, such as ``fastvit-data write-ffcv --help``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from loaders.command import run_command

__all__ = ["COMMANDS", "main"]

# A line for each, rather than its own docstring: --help need not wait for the tools' imports.
COMMANDS = {
    "get-cifar10": "fetch CIFAR-10",
    "make-subset": "choose a part of a data set, the same share of every class",
    "write-ffcv": "convert images into one .beton file, which loads fastest",
    "write-dali": "convert images into tar or TFRecord shards, which others read",
    "merge": "join the parts of a data set that several machines converted",
    "verify": "read a converted data set back and say what is broken",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""
    return run_command(partial(_run, sys.argv[1:] if argv is None else argv), interrupted="interrupted")


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fastvit-data",
        usage="%(prog)s COMMAND ...",
        description="Prepare data sets for training.",
        epilog="commands:\n" + "\n".join(f"  {name:12}{line}" for name, line in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", metavar="COMMAND", choices=COMMANDS, help="one of those below, which has its own --help"
    )
    command: str = parser.parse_args(arguments[:1]).command
    sys.argv[0] = f"{parser.prog} {command}"  # what the command's own --help calls it
    code: int = import_module(f"tools.{command.replace('-', '_')}").main(arguments[1:])
    return code
