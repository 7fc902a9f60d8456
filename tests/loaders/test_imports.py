"""What importing costs: a command's `--help` names the loaders and their options, and must not wait for torch."""

import subprocess
import sys


def test_the_options_are_there_without_torch():
    code = "import sys, loaders, loaders.config, loaders.crop, loaders.order; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
