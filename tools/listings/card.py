"""The card beside a converted data set: what was written, from what, and how."""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from loaders import companions
from loaders.atomic_file import atomic_file, clear_os_errors, remove_leftovers
from loaders.image_folder import describe_left_out

__all__ = ["Card", "read_card"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What was written, from what, and how."""

    dataset: str
    source: str
    split: str | None
    num_images: int
    num_classes: int
    class_names: tuple[str, ...]
    num_bytes: int
    """The size of the file, or of all shards."""
    formats: dict[str, int]
    """How many images are stored as `jpg`, `png` and `raw`."""
    treatments: dict[str, int]
    """How many images came to that in which way: see `tools.convert.encode_image.Treatment`."""
    skipped: list[dict[str, str]]
    """The images that could not be converted, `name` and `reason` of each."""
    seconds: float
    """Of the last run, where a conversion was interrupted and resumed."""
    images_per_second: float
    """Of the last run."""
    num_planned: int
    """How many images all parts have together, skipped ones included."""
    part: str | None
    """Which part of the data set this is, such as 2/8, where several machines share the work."""
    job: dict[str, Any]
    """Options that decide the bytes of the file, and the SHA-256 of the names and labels of the images."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many files of the source are no images by their names, by their extension."""

    def __str__(self) -> str:
        rows = {
            "images": f"{self.num_images:,}" + (f" (part {self.part})" if self.part else ""),
            "classes": f"{self.num_classes:,}",
            "bytes": f"{self.num_bytes:,}",
            "stored": ", ".join(f"{count:,} {name}" for name, count in self.formats.items()),
            "treatment": ", ".join(f"{count:,} {treatment}" for treatment, count in self.treatments.items()),
            "skipped": f"{len(self.skipped):,}",
            **({"left out": describe_left_out(self.left_out)} if self.left_out else {}),
            "images/s": f"{self.images_per_second:,.0f}",
            "seconds": f"{self.seconds:.1f}",
            "options": ", ".join(f"{name} {value}" for name, value in self.job.items() if value is not None),
        }
        return "\n".join(f"{name:11}{value}" for name, value in rows.items())

    def write(self, path: Path) -> None:
        """Write the card as JSON, all at once; what killed processes left half written of it goes.

        Raises:
            FastvitError: It cannot be written; nothing is left behind.
        """
        remove_leftovers(path)
        with clear_os_errors(path), atomic_file(path) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")


def read_card(path: Path) -> Card:
    """Read a card that `Card.write` wrote.

    Raises:
        FastvitError: It is missing or damaged.
    """
    needed = [field.name for field in fields(Card) if field.default_factory is MISSING]
    entries = companions.read_card(path, *needed)
    known = {field.name: entries[field.name] for field in fields(Card) if field.name in entries}
    return Card(**{**known, "class_names": tuple(known["class_names"])})
