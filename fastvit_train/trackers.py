"""A run's metrics in TensorBoard, Weights & Biases and MLflow, as `Config.trackers` asks for.

Each tracker starts before training, where its errors end the run. From then on a thread of its own talks to them:
training never waits for a network, and a tracker that fails is left out with a warning.
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from fastvit_train.config import Config
from fastvit_train.config_json import to_dict
from fastvit_train.run import Run
from fastvit_train.run_folder import write_json
from loaders.errors import FastvitError, MissingPackageError

__all__ = ["Tracker", "require_trackers", "tracked"]

_IDS = "trackers.json"
_FINISH_SECONDS = 60.0
_MLFLOW_BATCH = 100  # parameters that its servers take at once

_Line = tuple[int, dict[str, float]]


class Tracker(Protocol):
    """Where metrics go. It is made of the config, the run folder, the step and, to continue, the run's id there."""

    @property
    def run_id(self) -> str | None:
        """What continues this run later; None where the run folder is enough."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures of a step, by names such as `train/loss`."""

    def finish(self, *, failed: bool) -> None:
        """Send what is left, and end the run."""


class _TensorBoard:
    """Event files in the folder `tensorboard` of the run folder."""

    run_id = None

    def __init__(self, config: Config, folder: Path, *, step: int, run_id: str | None) -> None:  # noqa: ARG002
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote after the checkpoint is not shown any more.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        text = json.dumps(to_dict(config), indent=2)
        self._writer.add_text("config", f"```\n{text}\n```", global_step=step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()  # a run that is killed leaves what it said

    def finish(self, *, failed: bool) -> None:  # noqa: ARG002
        self._writer.close()


class _Wandb:
    """Weights & Biases; its own variables, such as WANDB_MODE and WANDB_PROJECT, say where."""

    def __init__(self, config: Config, folder: Path, *, step: int, run_id: str | None) -> None:  # noqa: ARG002
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fastvit"),
            name=folder.name,
            dir=folder,
            config=to_dict(config),
            allow_val_change=True,  # a run may be resumed with another config
            id=run_id,
            resume="allow",
        )
        self.run_id: str | None = self._run.id
        # Its own count of steps only grows: it would drop the steps that are done again after a resume.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


class _MLflow:
    """MLflow; its own variables MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where."""

    def __init__(self, config: Config, folder: Path, *, step: int, run_id: str | None) -> None:  # noqa: ARG002
        import mlflow
        from mlflow.entities import Param

        self._client = mlflow.MlflowClient()
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastvit")
            experiment = self._client.get_experiment_by_name(name)
            experiment_id = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
            run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
            params = [Param(key, str(value)) for key, value in _flat(to_dict(config))]
            for start in range(0, len(params), _MLFLOW_BATCH):
                self._client.log_batch(run_id, params=params[start : start + _MLFLOW_BATCH])
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def finish(self, *, failed: bool) -> None:
        self._client.set_terminated(self.run_id, status="FAILED" if failed else "FINISHED")


_TRACKERS: dict[str, Callable[..., Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _MLflow}


def require_trackers(names: Sequence[str]) -> None:
    """Make sure that the trackers' packages, which have the same names, are installed.

    Raises:
        MissingPackageError: One is not; the message says how to install it.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # W&B leaves a folder of its name, which Python takes for a package
            raise MissingPackageError(
                f"the tracker {name} needs the package {name}; install it with: pip install {name} "
                "(all trackers: pip install 'fastvit[track]')"
            )


@contextmanager
def tracked(run: Run) -> Iterator[None]:
    """Send the metrics that the run logs inside to its trackers, from the main rank.

    Raises:
        FastvitError: A tracker cannot start.
    """
    if not (run.world.is_main and run.config.trackers):
        yield
        return
    sender = _Sender(_start(run), warn=run.metrics.say)
    run.metrics.listeners.append(sender.send)
    try:
        yield
    except BaseException:
        sender.finish(failed=True)
        raise
    sender.finish(failed=False)


def _start(run: Run) -> dict[str, Tracker]:
    """The trackers by name: of a run that is resumed, they continue theirs."""
    path, step = run.folder / _IDS, run.progress.step
    ids: dict[str, str] = json.loads(path.read_text()) if step and path.exists() else {}
    trackers: dict[str, Tracker] = {}
    for name in run.config.trackers:
        try:
            trackers[name] = _TRACKERS[name](run.config, run.folder, step=step, run_id=ids.get(name))
        except Exception as error:
            raise FastvitError(
                f"the tracker {name} cannot start: {error}; fix that, or leave it out of --trackers"
            ) from error
    write_json(path, ids | {name: tracker.run_id for name, tracker in trackers.items() if tracker.run_id})
    return trackers


class _Sender:
    """Hands lines to the trackers in a thread of its own."""

    def __init__(self, trackers: dict[str, Tracker], *, warn: Callable[[str], None]) -> None:
        self._trackers = trackers
        self._warn = warn
        self._lines: SimpleQueue[_Line | None] = SimpleQueue()
        self._failed = False
        self._thread = Thread(target=self._work, name="trackers", daemon=True)
        self._thread.start()

    def send(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Have a line sent; this returns at once."""
        self._lines.put((step, {f"{kind}/{name}": value for name, value in figures.items()}))

    def finish(self, *, failed: bool) -> None:
        """Wait until all is sent, but not for ever."""
        self._failed = failed
        self._lines.put(None)
        self._thread.join(_FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"the trackers {', '.join(self._trackers)} still had metrics to send; metrics.jsonl has all")

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            step, figures = line
            self._each(lambda tracker: tracker.log(step, figures))  # noqa: B023 - called at once
        self._each(lambda tracker: tracker.finish(failed=self._failed))

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(tracker)
            except Exception as error:
                del self._trackers[name]
                self._warn(f"the tracker {name} failed and gets no more metrics: {error}; metrics.jsonl has all")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a nested dictionary, by names such as `optim.lr`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
