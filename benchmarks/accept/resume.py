"""Stage `resume`: a run that is killed and resumed ends with the bits of one that is not, on this device."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from benchmarks.accept.setting import Setting
from benchmarks.row_files import Row
from fastvit_train import checkpoint
from fastvit_train.config import Config
from fastvit_train.presets import build_preset
from fastvit_train.run_folder import CHECKPOINT
from fastvit_train.train import train

__all__ = ["resume_equality", "same_bits"]

_COMPARED = ("model", "ema", "optimizer", "random_states")
_WARNINGS = "warnings.txt"
_CPU_ARCH = "timm/test_vit"
_POLL_SECONDS = 0.0005


def resume_equality(setting: Setting, *, preset: str) -> Iterator[Row]:
    """A row: at which step the run was resumed, and what differed.

    Raises:
        RuntimeError: A run failed.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what deterministic matmuls ask for; children inherit it
    whole = _config(setting, preset, setting.work / "whole")
    killed = replace(whole, out=setting.work / "killed", resume="auto")
    _run(whole, must_end="well")
    _run(killed, must_end="killed")
    step = checkpoint.load(setting.work / "killed" / CHECKPOINT)["progress"]["step"]
    _run(killed, must_end="well")
    mine, other = (checkpoint.load(setting.work / name / CHECKPOINT) for name in ("killed", "whole"))
    different = [name for name in _COMPARED if not same_bits(mine[name], other[name])]
    yield {
        "preset": preset,
        "resumed_at_step": step,
        "steps": other["progress"]["step"],
        "different": different,
        "without_deterministic_kernels": (setting.work / _WARNINGS).read_text().splitlines(),
        "problem": f"different after the end: {', '.join(different)}" if different else None,
    }


def _config(setting: Setting, preset: str, out: Path) -> Config:
    config = build_preset(preset, arch=None if setting.on_cuda else _CPU_ARCH)
    train_images, val_images = setting.small_images
    num_steps = 60 if setting.on_cuda else 8
    return replace(
        config,
        data=replace(config.data, train=train_images, val=val_images),
        device=setting.device,
        batch_size=100 if setting.on_cuda else 20,
        accumulate=1,
        max_steps=num_steps,
        compile=config.compile if setting.on_cuda else "off",  # the augmentation takes a CPU half a minute
        checkpoint_every_steps=num_steps // 4,
        keep_checkpoints=1,
        out=out,
    )


def _run(config: Config, *, must_end: Literal["well", "killed"]) -> None:
    """Train in a process of its own, which is killed once it has written a checkpoint where it must end so."""
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(config, must_end == "killed"))
    process.start()
    process.join()
    wanted = -signal.SIGKILL if must_end == "killed" else 0
    if process.exitcode != wanted:
        raise RuntimeError(f"the run in {config.out} ended with code {process.exitcode} instead of {wanted}")


def _train(config: Config, is_to_die: bool) -> None:
    assert config.out is not None
    torch.use_deterministic_algorithms(True, warn_only=True)
    if is_to_die:
        threading.Thread(target=_die_after, args=(config.out / CHECKPOINT,), daemon=True).start()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config)
    lines = {str(warning.message).splitlines()[0] for warning in caught if "determinis" in str(warning.message)}
    (config.out.parent / _WARNINGS).write_text("".join(f"{line}\n" for line in sorted(lines)))


def _die_after(path: Path) -> None:
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def same_bits(mine: object, other: object) -> bool:
    """Whether two values are equal bit by bit, through all containers."""
    if isinstance(mine, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(mine, other)
    if isinstance(mine, dict) and isinstance(other, dict):
        return mine.keys() == other.keys() and all(same_bits(mine[name], other[name]) for name in mine)
    if isinstance(mine, list | tuple) and isinstance(other, list | tuple):
        return len(mine) == len(other) and all(map(same_bits, mine, other))
    return mine == other
