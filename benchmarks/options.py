"""What the options of the benchmarks have in common."""

from collections.abc import Collection, Sequence
from pathlib import Path

from loaders.errors import FastvitError

__all__ = ["INSTALLED", "check_positive", "distinct_names", "split_names"]

INSTALLED = "installed"
"""What the command line calls all contenders that are installed."""


def check_positive(options: object, *names: str) -> None:
    """Refuse options, of the dataclass of a benchmark, that are below 1; None is none.

    Raises:
        FastvitError: One is; the message names it.
    """
    for name in names:
        if (value := getattr(options, name)) is not None and value < 1:
            raise FastvitError(f"{name} must be positive, got {value}")


def split_names(groups: Sequence[str], known: Collection[str], *, kind: str) -> list[str]:
    """The contenders that the command line names, separated by spaces or commas, once each, in the order given.

    Raises:
        FastvitError: It names none, or one that is not known.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.split(",") if name))
    choices = ", ".join(sorted(known))
    if not names:
        raise FastvitError(f"{kind}s must name at least one of: {choices}")
    if unknown := set(names) - set(known):
        raise FastvitError(f"unknown {kind} {min(unknown)!r}; choose from: {choices}")
    return names


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The names of folders, with as many of the folders around them as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return []
