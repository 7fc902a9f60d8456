"""What was run, with what and where: for the result of a run and the rows of a benchmark."""

import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from fastvit_train.device import cpu_name
from fastvit_train.installed import installed_version
from loaders.cpus import usable_cpus

__all__ = ["machine", "provenance"]

_PACKAGES = ("fastvit", "torch", "torchvision", "timm", "numpy")
_CHECKOUT = Path(__file__).resolve().parents[1]
_DRIVER = Path("/proc/driver/nvidia/version")


def provenance() -> dict[str, Any]:
    """Command, commit, versions and machine.

    The version of what is not installed is None. Outside a checkout of fastvit, `commit` and `dirty` are None; `dirty`
    says whether tracked files differ from it.
    """
    commit, dirty = _commit(_CHECKOUT)
    return {
        "command": f"{_program()} {shlex.join(sys.argv[1:])}".rstrip(),
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version()} | {name: installed_version(name) for name in _PACKAGES},
        "machine": machine(),
    }


def _program() -> str:
    """What was started, as it is typed: a command, or a module with `python -m`."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return Path(sys.argv[0]).name if module is None else f"python -m {module.name.removesuffix('.__main__')}"


def machine() -> dict[str, Any]:
    """The CPU, its cores that this process may use, the memory, and the GPU with its software; None without one."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu() if torch.cuda.is_available() else None,
    }


def _gpu() -> dict[str, Any]:
    """The current card, and the versions of its driver, of CUDA and of cuDNN that torch uses."""
    return {
        "name": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "driver": _driver(_DRIVER.read_text()) if _DRIVER.exists() else None,
        "cuda": torch.version.cuda,
        "cudnn": _cudnn(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def _driver(text: str) -> str | None:
    """The version of NVIDIA's kernel module, from what it says of itself."""
    found = re.search(r"Kernel Module\D*? +(?:for \S+ +)?(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def _cudnn(number: int | None) -> str | None:
    """The version behind cuDNN's number: 8902 is 8.9.2, 91002 is 9.10.2."""
    if number is None:
        return None
    thousand = 10_000 if number >= 90_000 else 1000
    return f"{number // thousand}.{number % thousand // 100}.{number % 100}"


def _commit(checkout: Path) -> tuple[str | None, bool | None]:
    """The commit of a checkout of fastvit, and whether its files differ from it; None of a folder that is none.

    A package that is installed inside somebody's repository does not lie at that one's top.
    """
    if not _is_checkout(checkout):
        return None, None
    return _git(checkout, "rev-parse", "HEAD"), bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))


def _is_checkout(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text()).get("project", {})
    except (OSError, tomllib.TOMLDecodeError):
        return False
    top = _git(folder, "rev-parse", "--show-toplevel")
    return project.get("name") == "fastvit" and top is not None and Path(top).resolve() == folder


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
