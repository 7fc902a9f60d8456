"""Which samples of a source a manifest names."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from loaders.errors import FastvitError
from tools.listings.manifest import REMEDY, Manifest
from tools.sources.sample import ImageSource

__all__ = ["positions_of"]


def positions_of(manifest: Manifest, source: ImageSource) -> NDArray[np.int64]:
    """Find the manifest's images in `source`, going through it once.

    Returns:
        Each image's index in `source`, int64 [n], ascending.

    Raises:
        FastvitError: Images are not there, are there in another order or with another label, or are named twice.
    """
    names = manifest.names
    positions = np.empty(len(names), np.int64)
    labels = np.empty(len(names), np.int64)
    found = 0
    for index in range(len(source) if names else 0):
        sample = source[index]
        if sample.name == names[found]:
            positions[found], labels[found] = index, sample.label
            found += 1
            if found == len(names):
                break
    if found < len(names):
        raise FastvitError(f"{manifest.path}: {_why_not_found(manifest, source, found)}")
    if (wrong := np.flatnonzero(labels != manifest.labels)).size:
        first = int(wrong[0])
        raise FastvitError(
            f"{manifest.path}: {len(wrong)} of {len(labels)} images have another label in the source, the first "
            f"{names[first]!r}: {labels[first]}, not {manifest.labels[first]}; its class folders are not those "
            "that the manifest was made from"
        )
    return positions


def _why_not_found(manifest: Manifest, source: ImageSource, found: int) -> str:
    """Say why only the first `found` images are in `source` one after the other."""
    there = {source[index].name for index in range(len(source))}
    missing = [name for name in manifest.names if name not in there]
    if missing:
        return (
            f"{len(missing)} of {len(manifest.names)} images are not in the source, the first {missing[0]!r}; name the "
            f"source that the manifest was made from ({manifest.source}), or make a manifest of this one"
        )
    name, count = Counter(manifest.names).most_common(1)[0]
    if count > 1:
        return f"{name!r} is named {count} times; {REMEDY}"
    return f"{manifest.names[found]!r} is not in the order of the source; {REMEDY}"
