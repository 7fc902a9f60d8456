"""Continuing a run from its last checkpoint: what may have changed in the meantime, and what may not."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from fastvit_train import checkpoint
from fastvit_train.checkpoint import UnusableCheckpointError
from fastvit_train.config import Config
from fastvit_train.config_json import flatten, to_dict
from fastvit_train.run import Progress, Run
from fastvit_train.sharding import model_shares
from loaders.errors import FastvitError

__all__ = ["MAY_CHANGE", "changes", "resume"]

# The options that a run may have other values of when it is continued: they hold from then on. Each acts where it is
# read during training; Optimizers.load_state_dict leaves those of the optimizer as the config has them. All others
# say what is trained, or decide the order of the samples.
MAY_CHANGE = frozenset(
    {
        "accumulate",
        "checkpoint_every_epochs",
        "checkpoint_every_minutes",
        "checkpoint_every_steps",
        "compile",
        "cuda_graph",
        "data.backend",
        "data.classes",  # names alone; how many there are: `Run.identity` tells
        "data.decode",
        "data.num_workers",
        "data.on_error",
        "data.prefetch_batches",
        "data.scaled_decode",
        "data.timeout_seconds",
        "data.train",  # the same images at another place: `Run.identity` tells
        "data.val",
        "device",
        "distill.teacher",  # the same weights at another place: `Run.identity` tells
        "ema_half_life_epochs",  # whether there is an average at all: `Run.identity` tells
        "epochs",
        "eval_averaging",
        "eval_every_epochs",
        "keep_checkpoints",
        "log_every_steps",
        "max_steps",
        "model.bf16_residual",
        "optim.betas",
        "optim.clip_norm",
        "optim.lr",
        "optim.momentum",
        "optim.muon.lr",
        "optim.muon.momentum",
        "optim.muon.num_iterations",
        "optim.muon.weight_decay",
        "optim.nesterov",
        "optim.norm_bias_lr_factor",
        "optim.weight_decay",
        "parallel",  # what is saved are whole tensors
        "precision",
        "preset",  # a name alone
        "schedule.decay",
        "schedule.end_fraction",
        "schedule.start_fraction",
        "schedule.warmup_epochs",
        "trackers",
    }
)
# Where the run is and how it was called is not of the run.
_OF_THE_CALL = frozenset({"out", "resume"})


def resume(run: Run, paths: list[Path]) -> None:
    """Continue from the first of the checkpoints that can be used; with none at all, start from the beginning.

    The main rank alone reads; the others get from it what they need. Nothing is written before all checks have passed.

    Args:
        run: At its first step.
        paths: The checkpoints in its folder, the newest first; see `find_checkpoints`.

    Raises:
        FastvitError: The config differs in what cannot change, or no checkpoint can be used.
    """
    problems = []
    for path in paths:
        try:
            state = run.world.from_main(partial(_read, path))
            changed = run.world.from_main(partial(_check_same_run, run, state, path))
            _restore(run, state)
        except UnusableCheckpointError as error:
            problems.append(f"{path}: {error}")
            run.metrics.say(f"{problems[-1]}; trying the one before it")
            continue
        for line in changed:
            run.metrics.say(f"resume changes {line}")
        run.checkpoint_path, run.checkpoint_step = path, run.progress.step
        run.metrics.start_at(run.progress.step)
        run.metrics.say(f"continuing from {path} at step {run.progress.step}")
        return
    if problems:
        raise FastvitError(
            f"no checkpoint in {run.folder} can be used: {'; '.join(problems)}; put back a copy of one, or start again "
            "with another --out"
        )
    run.metrics.start_at(0)


def changes(before: dict[str, Any], config: Config) -> dict[str, tuple[Any, Any]]:
    """The options that differ, by dotted name, with the value before and the value now.

    Args:
        before: What `to_dict` made of the run's config; an option that was not there yet had its default.
        config: What the run is to continue with.
    """
    defaults, then, now = flatten(to_dict(Config())), flatten(before), flatten(to_dict(config))
    pairs = {name: (then.get(name, defaults[name]), value) for name, value in now.items() if name not in _OF_THE_CALL}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint whose parts are of the kinds that they should be.

    Raises:
        UnusableCheckpointError: It is damaged or not ours.
    """
    state = checkpoint.load(path)
    kinds = {
        "config": dict,
        "identity": dict,
        "progress": dict,
        "model": dict,
        "optimizer": list,
        "scaler": dict,
        "random_states": list,
    }
    checkpoint.require_parts(state, kinds)
    allowed = {field.name for field in fields(Progress)}
    if state["progress"].keys() != allowed or not all(
        value is None or isinstance(value, int | float) for value in state["progress"].values()
    ):
        raise UnusableCheckpointError("it is damaged: progress has other parts")
    return state


def _check_same_run(run: Run, state: dict[str, Any], path: Path) -> list[str]:
    """What differs between the checkpoint's run and this one, for people.

    Raises:
        FastvitError: Something differs that cannot change.
    """
    differing = changes(state["config"], run.config)
    refused = [_shown(name, *pair) for name, pair in differing.items() if name not in MAY_CHANGE]
    then, now = state["identity"], run.identity
    refused += [_shown(name, then.get(name), now.get(name)) for name in now | then if then.get(name) != now.get(name)]
    if refused:
        raise FastvitError(
            f"{path} is of another run, and resume cannot change {'; '.join(refused)}; give the values before, start a "
            f"new run from its weights with --init-from {path}, or name another --out"
        )
    return [_shown(name, *pair) for name, pair in differing.items()]


def _shown(name: str, old: object, new: object) -> str:
    return f"{name} {old} -> {new}"


def _restore(run: Run, state: dict[str, Any]) -> None:
    """Take over what the checkpoint holds; the next one overwrites whatever a bad one has left.

    Raises:
        UnusableCheckpointError: It does not fit the model or the optimizer.
    """
    try:
        run.model.load_state_dict(model_shares(state["model"], run.model))
        if run.ema is not None:
            run.ema.module.load_state_dict(model_shares(state["ema"], run.ema.module))
        run.optimizer.load_state_dict(state["optimizer"])
        run.scaler.load_state_dict(state["scaler"])
        checkpoint.restore_random_state(state["random_states"], run.world)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnusableCheckpointError(f"it does not fit the model or optimizer: {reason}") from error
    run.progress = Progress(**state["progress"])
