"""A run's folder: where it lies, and the files in it that outlive the run."""

import json
from pathlib import Path
from typing import Any

from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError

__all__ = ["BEST", "CHECKPOINT", "RESULT", "choose_folder", "save_config", "write_json"]

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
RESULT = "result.json"


def choose_folder(config: Config) -> Path:
    """Where the run's files go; see `Config.out` and `Config.resume`.

    Raises:
        FastvitError: `out` holds a run already and `resume` is not `auto`.
    """
    if config.out is not None:
        if config.resume == "never" and (config.out / CHECKPOINT).exists():
            raise FastvitError(
                f"{config.out} holds a run already; continue it with --resume auto, or name another --out"
            )
        return config.out
    name = (config.preset or config.arch).replace("/", "-")
    number = 1
    while (folder := _numbered(name, number)).exists():
        number += 1
    return _numbered(name, number - 1) if config.resume == "auto" and number > 1 else folder


def _numbered(name: str, number: int) -> Path:
    return Path("runs") / (name if number == 1 else f"{name}-{number}")


def save_config(folder: Path, config: Config) -> None:
    """Write the whole config as `config.json`, which `fastvit-train --config` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_dict(config))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` to `path`, replacing it at once."""
    with atomic_file(path) as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")
