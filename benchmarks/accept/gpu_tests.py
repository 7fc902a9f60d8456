"""Stage `tests`: the tests that need a CUDA device, from the checkout in which the command runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.accept.setting import LeftOut, Setting
from benchmarks.row_files import Row

__all__ = ["gpu_tests"]

_MARK = "mark.gpu"
_PROCESSES = 5
_REASON_LENGTH = 300


def gpu_tests(setting: Setting) -> Iterator[Row]:
    """One row: how many passed and failed, and why.

    Raises:
        LeftOut: There is no checkout here, or no pytest.
        RuntimeError: pytest itself failed.
    """
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if _MARK in path.read_text()]
    if not files:
        raise LeftOut("no tests here: run it in the root of a checkout")
    if find_spec("pytest") is None:
        raise LeftOut("pytest is not installed")
    results = setting.work / "tests.xml"
    several = find_spec("xdist") is not None and setting.on_cuda
    options = ["-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", f"--junitxml={results}"]
    options += ["--numprocesses", str(_PROCESSES), "--dist", "worksteal"] if several else []
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *files], env=_environment(), check=False)
    if not results.exists():
        raise RuntimeError(f"pytest ended with code {done.returncode} before any test; the log has what it said")
    yield _read(results, setting)


def _environment() -> dict[str, str]:
    """The environment in which the tests import the packages that run here, not the sources in the checkout.

    Sources have no compiled module; and a wheel has `benchmarks` and `tools` in a folder of their own.
    """
    packages = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), packages]))
    return os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}


def _read(results: Path, setting: Setting) -> Row:
    cases = list(ElementTree.parse(results).iter("testcase"))
    failures = {}
    for case in cases:
        for problem in [*case.findall("failure"), *case.findall("error")]:
            failures[f"{case.get('classname')}::{case.get('name')}"] = (problem.get("message") or "")[:_REASON_LENGTH]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failures) - skipped
    none_ran = setting.on_cuda and not passed
    return {
        "passed": passed,
        "failed": len(failures),
        "skipped": skipped,
        "failures": failures,
        "problem": f"{len(failures)} tests failed" if failures else "no test ran" if none_ran else None,
    }
