"""Steps and evaluations of every preset on a pretended CUDA device: nothing lies on the wrong one, and nobody waits."""

import pytest
from torch._subclasses.fake_tensor import DataDependentOutputException

from fake_cuda.device import DEVICE, pretended_cuda
from fake_cuda.fake_runs import (
    WORLD,
    FakeLoader,
    fake_batch,
    phases_in_order,
    preset_on,
    start_fake_run,
    validation_batches,
)
from fake_cuda.host_waits import no_host_waits
from fastvit_train.evaluate import evaluate
from fastvit_train.metrics import Totals
from fastvit_train.models import set_patch_drop
from fastvit_train.presets import PRESETS
from fastvit_train.train import train_step

# Those of small models are checked in every run of the tests.
FAST = {
    "cifar10-quick",
    "cifar10-resnet-fast",
    "cifar10-vit-small",
    "cifar10-vit-small-distilled",
    "cifar10-vit-small-fast",
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in PRESETS]
)
def run(request, raw_set, tmp_path_factory):
    """The run of a preset at its start, its model with few blocks."""
    config = preset_on(request.param, raw_set.path, compile="off")
    with pretended_cuda():
        yield start_fake_run(config, tmp_path_factory.mktemp(request.param), num_blocks=2)


def test_a_step_stays_on_the_device_and_waits_for_nothing(run):
    run.model.train()
    for epoch, phase in phases_in_order(run.config):
        run.progress.epoch = epoch
        set_patch_drop(run.model, phase.patch_drop)
        totals = Totals(DEVICE)
        batch = fake_batch(run.config.batch_size, phase.resolution)
        train_step(run, *batch, totals)  # the first one makes what later ones share
        run.progress.step += 1
        with no_host_waits():
            for _ in range(3):  # one without a CUDA graph, one that is recorded, one that is replayed
                train_step(run, *batch, totals)
                run.progress.step += 1
        assert {parameter.device for parameter in run.model.parameters()} == {DEVICE}
        assert all(parameter.grad.is_cuda for parameter in run.model.parameters() if parameter.requires_grad)
        assert totals.sums().is_cuda
        if run.teacher is not None:
            assert {tensor.device for tensor in run.teacher.model.state_dict().values()} == {DEVICE}


def test_an_evaluation_waits_for_nothing_but_its_result(run):
    loader = FakeLoader(*validation_batches(run.config), after_first=no_host_waits())
    with pytest.raises(DataDependentOutputException):  # when all is done, it reads the result
        evaluate(run.evaluated_model, loader, run.config, world=WORLD, dtype=run.dtype, autocast=run.autocast())
    assert loader.is_done
