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


# A model is a graph, but a plain ViT has regions: patches, first block, from block to block (those that drop paths
# apart from those that don't), and the head. The augmentation is one more for each resolution, and so is a teacher.
GRAPHS = {
    "cifar10-quick": Graphs((2,), 1),
    "cifar10-resnet-fast": Graphs((2,), 1),
    "cifar10-resnet50": Graphs((2,), 1),
    "cifar10-resnet50-h100": Graphs((2,), 1),
    "cifar10-vit-b16": Graphs((6,), 5),
    "cifar10-vit-b16-h100": Graphs((5, 5), 4),
    "cifar10-vit-small": Graphs((6,), 5),
    "cifar10-vit-small-distilled": Graphs((6, 6, 4), 4),
    "cifar10-vit-small-fast": Graphs((5, 5, 4), 4),
    "cifar10-vit-small-h100": Graphs((5, 5), 4),
    "finetune-cifar10": Graphs((6,), 5),
    "imagenet-resnet50-ffcv": Graphs((2, 2), 1),
    "imagenet-resnet50-rsb-a2": Graphs((2,), 1),
    "imagenet-resnet50-rsb-a3": Graphs((2,), 1),
    "imagenet-vit-b16-130": Graphs((6, 6), 5),
    "imagenet-vit-s16-90": Graphs((5,), 4),
    "imagenet-vit-s16-deit3": Graphs((6,), 5),
}
SLOW = {name for name, graphs in GRAPHS.items() if len(graphs.training) > 1 or graphs.evaluation > 1}


def step(run: Run, resolution: int) -> None:
    train_step(run, *fake_batch(run.config.batch_size, resolution), Totals(DEVICE))
    run.progress.step += 1


def evaluation(run: Run) -> None:
    loader = FakeLoader(*validation_batches(run.config))
    with pytest.raises(DataDependentOutputException):  # when all is done, it reads the result
        evaluate(run.evaluated_model, loader, run.config, world=WORLD, dtype=run.dtype, autocast=run.autocast())
    assert loader.is_done
    run.model.train()


def test_every_preset_is_in_the_table():
    assert GRAPHS.keys() == PRESETS.keys()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in GRAPHS])
def test_a_preset_has_few_graphs(cuda, raw_set, tmp_path, name):
    with counted_graphs() as graphs:
        run = start_fake_run(preset_on(name, raw_set.path), tmp_path, num_blocks=3)
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
