"""What the commands import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["get_cifar10", "make_subset", "merge", "verify", "write_dali", "write_ffcv"])
def test_a_command_starts_without_torch(command):
    code = f"import sys, tools.{command}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
