"""What `fastvit-bench train` measures on a card, rehearsed on a pretended CUDA device."""

import pytest

from benchmarks.bench_train import CONTENDERS, BenchTrain


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", ["train", "step", "loader", "matmuls"])
def test_steps_are_made_on_the_device(name, channels_last, raw_set, tmp_path):
    options = {"preset": "cifar10-quick", "batch_size": 8, "compile": "off"}
    config = BenchTrain(data=raw_set.path, channels_last=channels_last, **options)
    assert config.torch_device.type == "cuda"
    work = CONTENDERS[name](config, tmp_path)
    work.start()
    assert work.steps(4) == 32
