"""What a run has to do, against runs that did it."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.plan.job import describe_job, first_epochs
from fastvit_train.config import DataConfig, OptimConfig
from fastvit_train.flops import flops_per_image
from fastvit_train.metrics import read_metrics
from fastvit_train.models import build_model
from fastvit_train.presets import PRESETS, build_preset
from fastvit_train.schedule import Phase, total_steps
from fastvit_train.train import train
from loaders.errors import FastvitError
from runs import tiny_run


@pytest.mark.parametrize("averages", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_evaluations_and_checkpoints_of_a_run(tmp_path, make_set, monkeypatch, optimizer, averages):
    monkeypatch.setattr("fastvit_train.report.draw_run", lambda folder: None)
    images = make_set("train.beton", 140, num_classes=4).path
    data = DataConfig(train=images, val=images, backend="resident", crop="whole", resolution=32)
    config = replace(
        tiny_run(tmp_path / "run", data),
        epochs=2.5,
        eval_every_epochs=2,
        ema_half_life_epochs=averages,
        optim=OptimConfig(name=optimizer),
        log_every_steps=1,
    )
    job = describe_job(config, num_images=140, num_val_images=140)
    result = train(config)
    lines = read_metrics(config.out / "metrics.jsonl")
    assert sum(epoch.num_steps for epoch in job.epochs) == result["steps"] == 10
    assert [epoch.num_steps for epoch in job.epochs] == [4, 4, 2]
    assert job.num_evaluations == sum(line["kind"] == "eval" for line in lines) == 2
    assert job.num_checkpoints == 3
    head = 4 * 64 * (1000 - 4)  # the plan is for as many classes as ImageNet has
    size = (config.out / "checkpoint.pt").stat().st_size
    assert job.checkpoint_bytes == pytest.approx(size, rel=0.2, abs=4 * head)
    assert job.best_bytes < job.checkpoint_bytes


def test_phases_have_their_steps_and_their_operations():
    config = build_preset("imagenet-vit-b16-130")
    job = describe_job(config, num_images=880_000, num_val_images=50_000)
    of_phase = {side: sum(epoch.num_steps for epoch in job.epochs if epoch.phase[0] == side) for side in (192, 224)}
    assert of_phase == {192: 110 * 859, 224: 20 * 859}
    assert job.flops_per_image[Phase(224, 0.0)] == 104598687744  # as a run on an H200 counted them
    assert job.flops_per_image[Phase(192, 0.0)] < 0.75 * job.flops_per_image[Phase(224, 0.0)]
    assert first_epochs(config) == {Phase(192, 0.0): 0, Phase(224, 0.0): 110}
    assert job.gradient_bytes == pytest.approx(4 * 86.6e6, rel=0.01)
    assert job.checkpoint_bytes == 3 * job.gradient_bytes


def test_an_outline_has_the_operations_of_the_model():
    config = build_preset("cifar10-vit-small-fast")
    job = describe_job(config, num_images=50_000, num_val_images=10_000)
    model = build_model("vit_small_cifar", num_classes=1000, resolution=32, config=config.model, phases=config.phases)
    for phase in (Phase(24, 0.5), Phase(32, 0.0)):
        assert job.flops_per_image[phase] == flops_per_image(model, phase)
    assert job.evaluation_flops_per_image == pytest.approx(2 * job.flops_per_image[Phase(32, 0.0)] / 3)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_planned(name):
    config = build_preset(name)
    job = describe_job(config, num_images=880_000, num_val_images=50_000)
    steps = sum(epoch.num_steps for epoch in job.epochs)
    assert steps == total_steps(config.epochs, 880_000 // config.batch_size)
    assert len(job.epochs) == job.num_checkpoints == math.ceil(config.epochs)
    assert set(first_epochs(config)) == {epoch.phase for epoch in job.epochs}
    assert torch.get_default_device().type == "cpu"


def test_too_few_images_for_a_batch():
    with pytest.raises(FastvitError, match="500 training images make no batch of 1,024; use a smaller --batch-size"):
        describe_job(build_preset("imagenet-vit-b16-130"), num_images=500, num_val_images=500)
