"""Where samples are within their source, as text."""

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from loaders.errors import FastvitError

__all__ = ["checked_name", "shard_names"]


def checked_name(name: str) -> str:
    """A path within an archive in its shortest form.

    Raises:
        FastvitError: It leads out of the archive.
    """
    if "/" not in name:
        return name
    if name.startswith("/") or ".." in name.split("/"):
        raise FastvitError(f"{name!r} leads out of the archive; write it again with names that lie below its root")
    return posixpath.normpath(name)


def shard_names(paths: Sequence[Path]) -> list[str]:
    """What to call each file within a source of many: its path below the folder that holds them all."""
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    return [os.path.relpath(path.absolute(), folder) for path in paths]
