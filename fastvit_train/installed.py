"""Which versions of packages are installed."""

import importlib.metadata

__all__ = ["installed_version"]


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where it runs from a folder on the path, without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
