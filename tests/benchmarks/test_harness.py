"""What a contender costs includes what its children cost."""

import subprocess
import sys

from benchmarks.harness import Contender

_NUM_BYTES = 300 << 20


def _nothing():
    return None


def _spend_memory_in_a_child(_):
    code = f"import time; memory = b'x' * {_NUM_BYTES}; time.sleep(0.5)"
    subprocess.run([sys.executable, "-c", code], check=True)
    return 1


def test_memory_of_a_child_that_has_ended_counts_when_watched():
    with Contender("spender", _nothing) as contender:
        contender.wait_until_ready()
        watched = contender.run_watched(_spend_memory_in_a_child)
        assert watched > contender.run(_spend_memory_in_a_child).peak_rss_bytes + _NUM_BYTES
