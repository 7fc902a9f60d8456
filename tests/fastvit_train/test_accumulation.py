"""How many parts a batch is computed in where the config leaves it open."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fastvit_train import accumulation
from fastvit_train.accumulation import resolve_accumulate, saved_bytes_per_image
from fastvit_train.config import Config, DataConfig, ModelConfig
from fastvit_train.distributed import World
from fastvit_train.models import build_model
from fastvit_train.presets import build_preset
from fastvit_train.run import build_placed_model
from runs import TINY

CPU = torch.device("cpu")
ALONE = World(rank=0, world_size=1, device=CPU)
FLOAT = {"dtype": torch.float32}


class Layers(nn.Module):
    """Keeps 4 x 3 x side x side bytes of an image for the gradient of each of its layers."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(num_layers)))

    def forward(self, images):
        return self.layers(images).mean(dim=(2, 3))


def parts(needed: float, monkeypatch, config: Config, model: nn.Module | None = None, world: World = ALONE) -> int:
    """The parts of a batch that needs so many times the CPU's budget."""
    of_batch = needed * accumulation._CPU_BYTES
    monkeypatch.setattr(accumulation, "saved_bytes_per_image", lambda *_, **__: of_batch / config.batch_size)
    return resolve_accumulate(config, model or Layers(1), world, **FLOAT)


def test_what_is_kept_of_an_image_is_seen():
    config = Config(data=DataConfig(resolution=8), batch_size=4)
    bytes_of = [saved_bytes_per_image(config, Layers(count), CPU, **FLOAT) for count in (1, 5)]
    assert bytes_of == [4 * 3 * 64, 5 * 4 * 3 * 64], "and nothing of the weights"
    smaller = replace(config, epochs=2, phases=((0.5, 16, 0.0),))
    assert saved_bytes_per_image(smaller, Layers(1), CPU, **FLOAT) == 4 * 3 * 256, "of the largest phase"


def test_patches_that_are_left_out_keep_nothing():
    config = Config(data=DataConfig(resolution=32), epochs=1)
    model = build_model(TINY, num_classes=4, resolution=32, config=ModelConfig(patch_drop=0.5))
    half = saved_bytes_per_image(replace(config, model=ModelConfig(patch_drop=0.5)), model, CPU, **FLOAT)
    assert half < 0.7 * saved_bytes_per_image(config, model, CPU, **FLOAT)


def test_counting_changes_nothing():
    model = build_model(TINY, num_classes=4, resolution=32).eval()
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    saved_bytes_per_image(Config(data=DataConfig(resolution=32)), model, CPU, **FLOAT)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize(("needed", "expected"), [(0.9, 1), (1.1, 2), (2.5, 4), (4.5, 5), (1e9, 500)])
def test_it_is_the_least_number_that_fits_and_divides_the_batch(monkeypatch, needed, expected):
    assert parts(needed, monkeypatch, Config(batch_size=500)) == expected


def test_a_number_that_is_given_wins(monkeypatch):
    assert parts(3, monkeypatch, Config(batch_size=500, accumulate=10)) == 10
    assert parts(3, monkeypatch, Config(batch_size=500, accumulate=1)) == 1


def test_batch_normalisation_and_cuda_graphs_see_whole_batches(monkeypatch):
    assert parts(3, monkeypatch, Config(batch_size=500), nn.BatchNorm2d(3)) == 1
    assert parts(3, monkeypatch, Config(batch_size=500, compile="reduce-overhead")) == 1
    assert parts(3, monkeypatch, Config(batch_size=500, compile="max-autotune-no-cudagraphs")) == 4


def test_ranks_share_the_batch_and_agree_on_the_parts(monkeypatch):
    class Two(World):
        def gather(self, value):
            return [value, 5]

    world = Two(rank=0, world_size=2, device=CPU)
    assert parts(4, monkeypatch, Config(batch_size=500), world=world) == 5


def test_cuda_has_parts_that_its_free_memory_takes(monkeypatch):
    cuda = World(rank=0, world_size=1, device=torch.device("cuda", 0))
    monkeypatch.setattr(accumulation, "saved_bytes_per_image", lambda *_, **__: 2**20)
    free = {"bytes": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free["bytes"], 2**40))
    found = {}
    for gib in (0.01, 1, 2, 80):
        free["bytes"] = gib * 2**30
        found[gib] = resolve_accumulate(Config(batch_size=1024), Layers(1), cuda, **FLOAT)
    assert found == {0.01: 128, 1: 2, 2: 1, 80: 1}


def test_the_small_vit_has_its_parts_of_125_on_the_cpu():
    config = build_preset("cifar10-vit-small-fast")
    model = build_placed_model(config, ALONE, 10)
    assert resolve_accumulate(config, model, ALONE, dtype=torch.bfloat16) == 4
