"""The command `fastvit-train`: a preset or a saved config, changed by options."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from fastvit_train.config import Config
from fastvit_train.config_json import from_dict
from fastvit_train.presets import ARCH_PRESETS, build_preset

__all__ = ["main", "parse"]


def parse(arguments: Sequence[str]) -> Config:
    """The config that the command line asks for.

    Args:
        arguments: As in `sys.argv[1:]`: `--preset NAME` or `--config FILE` (a run's config.json) says where to start
            from, else the model's own preset where it has one; all other options change single fields, and a preset's
            warm-up and averages follow its `--epochs`.

    Raises:
        ValueError: A preset, a file or a value is not usable.
    """
    # The starting point has to be known before tyro can show its values as defaults.
    start_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    start = start_parser.add_mutually_exclusive_group()
    start.add_argument("--preset")
    start.add_argument("--config", type=Path)
    chosen, rest = start_parser.parse_known_args(arguments)
    default = _recipe(chosen.preset, rest) if chosen.config is None else _read_config(chosen.config)
    description = "Train an image classifier. --config FILE starts from a run's config.json instead of a --preset."
    return tyro.cli(Config, prog="fastvit-train", description=description, default=default, args=rest)


def _recipe(preset: str | None, options: Sequence[str]) -> Config:
    """The preset, or else that of the model in `options`, for as many epochs as they name."""
    peek_parser = argparse.ArgumentParser(prog="fastvit-train", add_help=False, allow_abbrev=False)
    peek_parser.add_argument("--arch", default=Config().arch)
    peek_parser.add_argument("--epochs", type=float)
    peeked, _ = peek_parser.parse_known_args(options)
    name = preset or ARCH_PRESETS.get(peeked.arch)
    return Config() if name is None else build_preset(name, epochs=peeked.epochs)


def _read_config(path: Path) -> Config:
    try:
        return from_dict(json.loads(path.read_text()))
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no config that can be read: {error}") from error


def main() -> int:
    """Train as the command line says; 0 when done, 1 after an error, 130 after Ctrl-C."""
    try:
        config = parse(sys.argv[1:])
        from fastvit_train.train import train  # loads timm and more, which --help need not wait for

        train(config)
    except (ValueError, ImportError, OSError) as error:
        print(f"fastvit-train: {error}", file=sys.stderr)  # noqa: T201 - the one message of a failed run
        return 1
    except KeyboardInterrupt:
        print("fastvit-train: interrupted; --resume auto goes on from the last checkpoint", file=sys.stderr)  # noqa: T201
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
