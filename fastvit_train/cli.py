"""The command `fastvit-train`: a preset or a saved config, changed by options."""

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from fastvit_train.commands.options import COMMANDS, Eval, Export, Predict
from fastvit_train.config import Config
from fastvit_train.config_json import read_config, to_dict
from fastvit_train.installed import installed_version
from fastvit_train.option_rules import reset_unused, with_option
from fastvit_train.presets import PRESETS, build_preset, preset_of, summary
from loaders.command import run_command

__all__ = ["CommandLine", "changed", "main", "parse"]

_PROG = "fastvit-train"
_DESCRIPTION = f"""\
Train an image classifier from a preset or a saved config, changed by options.

Without --preset or --config, the preset of --arch or of its family applies.

presets:
{{presets}}

with a trained model (--help after each says more):
  eval CHECKPOINT            Accuracy and speed on its own or another dataset.
  predict CHECKPOINT FILES   The classes of images, as a table, JSON or CSV.
  export CHECKPOINT          safetensors for timm, ONNX, torch.export.

exit codes:
  0    done
  1    an error
  2    a wrong option
  75   a checkpoint is written because SIGTERM or SIGUSR1 came; continue the
       run with the same command and --resume auto
  130  Ctrl-C; a checkpoint is written where training has begun

Shell completion: {_PROG} --tyro-write-completion bash FILE"""

if TYPE_CHECKING:
    _PresetName = str
else:
    _PresetName = tyro.extras.literal_type_from_choices(PRESETS)  # so that help and completion know the choices


@dataclass(frozen=True, kw_only=True)
class CommandLine(Config):
    """The config's options, and those of the command alone."""

    preset: tyro.conf.DisallowNone[_PresetName | None] = None
    """Name of the recipe that the other options change."""
    config: Path | None = None
    """Start from this file, such as a run's config.json, instead of a preset."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the whole config as JSON, which --config takes, and exit."""
    version: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the version and exit."""

    def __post_init__(self) -> None:
        """Left to the `Config` that comes of it, from which what a preset has no use for any more is gone."""


def parse(arguments: Sequence[str]) -> Config:
    """The config that the command line asks for.

    Args:
        arguments: As in `sys.argv[1:]`: `--preset NAME` or `--config FILE` (a run's config.json) says where to start
            from, else the model's own preset or that of its family; all other options change single fields, and a
            preset's warm-up and averages follow its `--epochs`. What they leave without use in the preset or file gets
            its default; an option of no use on the command line itself is refused.

    Raises:
        FastvitError: A preset, a file or a value is not usable.
    """
    return _parse(arguments)[1]


def _parse(arguments: Sequence[str]) -> tuple[CommandLine, Config]:
    """The command line, and the config that it asks for."""
    start = _start(arguments)
    known = {"preset": start.preset if start.preset in PRESETS else None}  # a saved config may have another name
    presets = "\n".join(f"  {name:<{max(map(len, PRESETS))}} {summary(name)}" for name in PRESETS)
    command = tyro.cli(
        CommandLine,
        prog=_PROG,
        description=_DESCRIPTION.format(presets=presets),
        default=CommandLine(**_options(start) | known),
        args=arguments,
    )
    return command, _config(command, typed=_typed(arguments), preset=start.preset)


def changed(start: Config, options: Mapping[str, object]) -> Config:
    """A config with options changed as by the command line: what they leave without use gets its default.

    Args:
        start: The config, such as a preset.
        options: Their values by dotted names, such as `data.backend`.

    Raises:
        FastvitError: A value is not usable, or an option is of no use.

    Examples:
        >>> from fastvit_train.cli import changed
        >>> from fastvit_train.presets import build_preset
        >>> changed(build_preset("cifar10-quick"), {"precision": "fp32", "data.backend": "native"}).precision
        'fp32'
    """
    command = CommandLine(**_options(start) | {"preset": None})
    for name, value in options.items():
        command = with_option(command, name, value)
    return _config(command, typed=options, preset=start.preset)


def _config(command: CommandLine, *, typed: Collection[str], preset: str | None) -> Config:
    useful = reset_unused(command, keep=typed)
    return Config(**_options(useful) | {"preset": preset})


def _typed(arguments: Sequence[str]) -> set[str]:
    """The options that the command line names, by their dotted names."""
    names = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    return {name.removeprefix("--").replace("-", "_") for name in names}


def _options(config: Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(Config)}


def _start(arguments: Sequence[str]) -> Config:
    """What the options change: it has to be known before tyro can show its values as defaults."""
    parser = argparse.ArgumentParser(prog=_PROG, add_help=False, allow_abbrev=False)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--preset")
    start.add_argument("--config", type=Path)
    parser.add_argument("--arch")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--data.resolution", type=int, dest="resolution")
    chosen, _ = parser.parse_known_args(arguments)
    if chosen.config is not None:
        return read_config(chosen.config)
    name = chosen.preset or preset_of(chosen.arch or Config().arch, resolution=chosen.resolution)
    return build_preset(name, epochs=chosen.epochs, arch=chosen.arch)


def main() -> int:
    """Do what the command line says.

    Returns:
        The exit code: 0 when done, 1 after an error, 130 after Ctrl-C.

    Raises:
        RunStopped: A signal stopped the run; not caught, it is the exit code 75.
    """
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        prog = f"{_PROG} {name}"
        return run_command(partial(_use, name, arguments), name=prog, interrupted=f"{prog}: interrupted")
    interrupted = f"{_PROG}: interrupted; --resume auto continues from the last checkpoint, if any"
    return run_command(_train, name=_PROG, interrupted=interrupted)


def _use(name: str, arguments: Sequence[str]) -> int:
    """Run a command for trained models, which is imported here because it loads torch, timm and more."""
    match tyro.cli(COMMANDS[name], prog=f"{_PROG} {name}", args=arguments):
        case Eval() as options:
            from fastvit_train.commands.eval import run_eval

            run_eval(options)
        case Predict() as options:
            from fastvit_train.commands.predict import run_predict

            return run_predict(options)
        case Export() as options:
            from fastvit_train.commands.export import run_export

            run_export(options)
    return 0


def _train() -> int:
    command, config = _parse(sys.argv[1:])
    if command.version:
        print(f"fastvit {installed_version('fastvit') or 'from sources, not installed'}")
    elif command.print_config:
        print(json.dumps(to_dict(config), indent=2))
    else:
        from fastvit_train.train import train  # loads torch, timm and more, which the other ways need not wait for

        train(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
