"""What torch.compile makes of every preset: no graph breaks, few graphs, and none again for what it has seen."""

from typing import NamedTuple

import pytest
from torch._subclasses.fake_tensor import DataDependentOutputException

from fake_cuda.device import DEVICE
from fake_cuda.fake_runs import (
    WORLD,
    FakeLoader,
    fake_batch,
    phases_in_order,
    preset_on,
    start_fake_run,
    validation_batches,
)
from fake_cuda.graphs import counted_graphs
from fastvit_train.evaluate import evaluate
from fastvit_train.metrics import Totals
from fastvit_train.models import set_patch_drop
from fastvit_train.presets import PRESETS
from fastvit_train.run import Run
from fastvit_train.train import train_step


class Graphs(NamedTuple):
    """How many graphs a run has."""

    training: tuple[int, ...]
    """New in each phase, the augmentation's included."""
    evaluation: int


GRAPHS = {name: Graphs((2,), 1) for name in PRESETS}


def step(run: Run, resolution: int) -> None:
    train_step(run, *fake_batch(run.config.batch_size, resolution), Totals(DEVICE))
    run.progress.step += 1


def evaluation(run: Run) -> None:
    loader = FakeLoader(*validation_batches(run.config))
    with pytest.raises(DataDependentOutputException):  # when all is done, it reads the result
        evaluate(run.evaluated_model, loader, run.config, world=WORLD, dtype=run.dtype, autocast=run.autocast())
    assert loader.is_done
    run.model.train()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_few_graphs(cuda, raw_set, tmp_path, name):
    with counted_graphs() as graphs:
        run = start_fake_run(preset_on(name, raw_set.path), tmp_path)
        training, of_evaluation = [], 0
        for epoch, phase in phases_in_order(run.config):
            run.progress.epoch = epoch
            set_patch_drop(run.model, phase.patch_drop)
            before = len(graphs)
            step(run, phase.resolution)
            training.append(len(graphs) - before)
            step(run, phase.resolution)
            assert len(graphs) - before == training[-1], "a second step compiles nothing"
            before = len(graphs)
            evaluation(run)
            of_evaluation += len(graphs) - before
        seen = len(graphs)
        evaluation(run)
        assert len(graphs) == seen, "a second evaluation compiles nothing"
    assert Graphs(tuple(training), of_evaluation) == GRAPHS[name]
