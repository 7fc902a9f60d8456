"""The backends as parameters of tests, skipped where what they need is not installed."""

import importlib.util

import pytest

_PACKAGES = {"dali": "nvidia.dali", "ffcv": "ffcv"}


def is_installed(backend: str) -> bool:
    """Whether the package that a backend needs is there."""
    package = _PACKAGES.get(backend, "loaders")
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is not there either
        return False


def of_backend(name: str, *values: object, label: str | None = None):
    """A parameter of `values`, or of the backend's name where none are given, whose test needs the backend."""
    missing = pytest.mark.skipif(not is_installed(name), reason=f"{_PACKAGES.get(name)} is not installed")
    return pytest.param(*(values or (name,)), id=label or name, marks=missing)
