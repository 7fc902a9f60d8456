"""What importing costs: a command's `--help`, and every conversion, must not wait for torch."""

import subprocess
import sys

import pytest
from torchvision.datasets.folder import IMG_EXTENSIONS

from loaders import tar_shard


@pytest.mark.parametrize(
    "modules",
    [
        "loaders, loaders.config, loaders.crop, loaders.order",
        "loaders.beton, loaders.tar_shard, loaders.atomic_file",
    ],
)
def test_what_commands_need_comes_without_torch(modules):
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)


def test_shards_and_folders_hold_the_same_kinds_of_images():
    assert {f".{extension}" for extension in tar_shard._IMAGE_EXTENSIONS} == set(IMG_EXTENSIONS)
