"""What importing costs: a command's `--help`, and every conversion, must not wait for torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "modules",
    [
        "loaders, loaders.config, loaders.crop, loaders.order",
        "loaders.beton, loaders.tar_shard, loaders.image_folder, loaders.atomic_file",
    ],
)
def test_what_commands_need_comes_without_torch(modules):
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)
