"""What a wheel keeps out of site-packages' top: `tools` and `benchmarks`, and the doors of their commands.

Both names are common, and a package of somebody else's would replace ours or be replaced by it. So a wheel lays the two
into this folder, and their commands put it first on the path of their own process; processes that they start with
multiprocessing inherit the path. In a checkout the two lie at the top, and there is nothing here but this file.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def data() -> int:
    """The command `fastvit-data`."""
    return _main("tools.cli")()


def bench() -> int:
    """The command `fastvit-bench`."""
    return _main("benchmarks.cli")()


def _main(module: str) -> Callable[[], int]:
    sys.path.insert(0, str(Path(__file__).parent))
    main: Callable[[], int] = import_module(module).main
    return main
