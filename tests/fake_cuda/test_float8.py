"""A ViT with its large matmuls in float8, where torchao is installed: on the device, without waiting, in few graphs."""

import importlib.util
from unittest import mock

import pytest
import torch

from fake_cuda.device import DEVICE, pretended_cuda
from fake_cuda.fake_runs import fake_batch, preset_on, start_fake_run
from fake_cuda.graphs import counted_graphs
from fake_cuda.host_waits import no_host_waits
from fastvit_train.metrics import Totals
from fastvit_train.train import train_step

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),  # when Python first compiles the sources of torchao
]


@pytest.fixture(autouse=True)
def _torchao() -> None:
    import torchao.float8  # noqa: F401 - while tensors are still real


# The parts of the second have 3 x 197 tokens: not a multiple of 16, as float8 matmuls need it.
@pytest.mark.parametrize(("batch_size", "num_parts"), [(16, 1), (6, 2)])
def test_a_step_is_in_float8_and_waits_for_nothing(raw_set, tmp_path, batch_size, num_parts):
    sizes = {"batch_size": batch_size, "accumulate": num_parts, "phases": ()}
    changes = {"precision": "fp8", "compile": "off", "ema_half_life_epochs": 1.0, **sizes}
    config = preset_on("imagenet-vit-b16-130", raw_set.path, **changes)
    with pretended_cuda():
        run = start_fake_run(config, tmp_path, num_blocks=1)
        batch, totals = fake_batch(batch_size, config.data.resolution), Totals(DEVICE)
        with mock.patch.object(torch, "_scaled_mm", wraps=torch._scaled_mm) as matmul:
            train_step(run, *batch, totals)
        run.progress.step += 1
        with no_host_waits():
            for _ in range(3):  # one without a CUDA graph, one that is recorded, one that is replayed
                train_step(run, *batch, totals)
                run.progress.step += 1
        gradients = [weight.grad for weight in run.model.parameters() if weight.requires_grad]
        assert all(gradient.is_cuda and gradient.dtype == torch.float32 for gradient in gradients)
        assert matmul.call_count == 4 * 3 * num_parts  # layers and passes
        with mock.patch.object(torch, "_scaled_mm", wraps=torch._scaled_mm) as matmul, run.autocast():
            run.evaluated_model(torch.empty(2, 3, 224, 224, device=DEVICE))
        assert matmul.call_count == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_has_as_many_graphs_as_in_bf16(raw_set, tmp_path):
    numbers = {}
    for precision in ("bf16", "fp8"):
        config = preset_on("cifar10-vit-small", raw_set.path, precision=precision)
        with pretended_cuda(), counted_graphs() as graphs:
            run = start_fake_run(config, tmp_path / precision, num_blocks=3)
            for _ in range(2):
                train_step(run, *fake_batch(config.batch_size, config.data.resolution), Totals(DEVICE))
                run.progress.step += 1
        numbers[precision] = len(graphs)
    assert numbers["fp8"] == numbers["bf16"]
