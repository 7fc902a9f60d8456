"""A run that tests change, and one that is trained once for all of them."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch.distributed as dist

from fastvit_train.config import Config, DataConfig
from fastvit_train.train import train
from loaders.beton import Beton, EncodedImage, ImageMode
from runs import Trained, tiny_run


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory, make_set_in) -> DataConfig:
    """140 images to train on and 50 to evaluate on, of four classes; the files are to be read, not written."""
    folder = tmp_path_factory.mktemp("sets")
    return DataConfig(
        train=make_set_in(folder, "train.beton", 140, num_classes=4).path,
        val=make_set_in(folder, "val.beton", 50, num_classes=4, seed=1).path,
        backend="resident",
        crop="whole",
        resolution=32,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_sets) -> Trained:
    """The run of the fixture `config`, finished."""
    config = tiny_run(tmp_path_factory.mktemp("trained") / "run", data_sets)
    return Trained(config, train(config))


@pytest.fixture
def config(tmp_path, data_sets, monkeypatch) -> Config:
    """A run that is not trained yet, in the test's folder; without its pictures, which take longest."""
    monkeypatch.setattr("fastvit_train.report.draw_run", lambda folder: None)
    return tiny_run(tmp_path / "run", data_sets)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone: with it, models are wrapped and sharded as on many ranks."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def other_order(own_data, write_images) -> Config:
    """The same run, whose validation set numbers the classes in another order; the cards tell their names."""
    train, val = own_data.data.train, Beton(own_data.data.val)
    order = np.array([2, 0, 3, 1])
    pixels = [val.image_bytes(index) for index in range(val.num_samples)]
    other = val.path.with_name("other_order.beton")
    write_images(other, [EncodedImage(data, ImageMode.RAW, 32, 32) for data in pixels], order[val.labels])
    names = np.array(["ant", "bee", "cat", "dog"])
    for path, named in ((train, names), (other, names[np.argsort(order)])):
        path.with_name(f"{path.name}.json").write_text(json.dumps({"class_names": named.tolist()}))
    return replace(own_data, data=replace(own_data.data, val=other))


@pytest.fixture
def own_data(config, tmp_path) -> Config:
    """The same, with data sets that the test may damage."""
    data = replace(config.data, train=tmp_path / "train.beton", val=tmp_path / "val.beton")
    data.train.write_bytes(config.data.train.read_bytes())
    data.val.write_bytes(config.data.val.read_bytes())
    return replace(config, data=data)
