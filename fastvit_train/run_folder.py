"""A run's folder: where it lies, and the files in it that outlive the run."""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from fastvit_train.presets import run_name
from loaders.atomic_file import atomic_file
from loaders.errors import FastvitError

__all__ = ["BEST", "CHECKPOINT", "RESULT", "choose_folder", "provenance", "save_config", "write_json"]

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
    name = run_name(config).replace("/", "-")
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


def provenance() -> dict[str, Any]:
    """What was run and with what: command, commit (None outside a checkout) and versions."""
    packages = ("fastvit", "torch", "torchvision", "timm", "numpy")
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
