"""What every format of shards is: how a sample lies in a shard and in its index."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

__all__ = ["ImageExtension", "ShardFormat", "ShardSample"]

ImageExtension = Literal["jpg", "png"]


class ShardSample(NamedTuple):
    """One image with its label."""

    key: str
    """Its name without an extension."""
    image: bytes
    """An image file's bytes."""
    extension: ImageExtension
    """What `image` is."""
    label: int


class ShardFormat(Protocol):
    """How samples lie in a shard and in its index; without state."""

    @property
    def trailer(self) -> bytes:
        """What follows the last sample."""

    def encode(self, sample: ShardSample, offset: int) -> tuple[Sequence[bytes], str]:
        """Lay out a sample that begins `offset` bytes into the shard: its bytes, in pieces, and its line in the index.

        Raises:
            FastvitError: The format cannot hold the sample; the message doesn't name it.
        """

    def index(self, lines: Sequence[str]) -> str:
        """Make the whole index from the samples' lines."""
