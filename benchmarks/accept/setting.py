"""What all stages of `fastvit-bench accept` share: the device, the data, and the file of rows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accept.photos import make_photos, make_small_images
from benchmarks.row_files import Row, append_rows

__all__ = ["Job", "LeftOut", "Setting", "make_setting"]


class LeftOut(Exception):  # noqa: N818 - no error: what it needs is not there
    """What a job needs is not there; the message says what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where the stages run, on what, and where their rows go."""

    device: str
    """cuda or cpu."""
    photos: Path
    """JPEGs of photo size."""
    small_images: tuple[Path, Path]
    """Images of 32 px, for training and validation."""
    has_cifar10: bool
    """Whether the small images are CIFAR-10."""
    work: Path
    """For files that nobody keeps."""
    rows: Path
    """The file of rows."""
    origin: dict[str, Any]
    """What every row says of command, commit, versions and machine."""

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA device; else sizes are small and the figures mean nothing."""
        return self.device == "cuda"

    def add_row(self, stage: str, name: str, status: str, row: Row) -> None:
        """Append a row to the file at once: whatever ends the run later, it is there."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        job = {"benchmark": "accept", "stage": stage, "name": name, "status": status}
        append_rows(self.rows, [{**job, **row, "device": self.device, "date": now, **self.origin}])


class Job(NamedTuple):
    """A piece of a stage, which runs in its own process."""

    stage: str
    name: str
    work: Callable[[Setting], Iterable[Row]]
    """Picklable; each row that it gives is kept at once. A row with a `problem` makes the job one that failed."""
    cap_seconds: float
    """It is killed when it takes longer."""
    least_seconds: float = 5.0
    """It is left out when less time is left."""
    is_rehearsed: bool = True
    """Whether a rehearsal on the CPU has it."""


def make_setting(*, device: str, photos: Path | None, data: Path, work: Path, rows: Path, origin: Row) -> Setting:
    """The setting of a run; images that are not there are made.

    Args:
        device: cuda or cpu.
        photos: JPEGs of photo size; made when not given.
        data: Folder of `cifar10_train.beton` and `cifar10_test.beton`; on the CPU, or where they are missing, images
            of their size are made.
        work: Folder for what is made.
        rows: The file of rows.
        origin: What every row says of command, commit, versions and machine.
    """
    on_cuda = device == "cuda"
    if photos is None:
        photos = make_photos(work / "photos.beton", num_images=4096 if on_cuda else 64)
    cifar10 = (data / "cifar10_train.beton", data / "cifar10_test.beton")
    has_cifar10 = on_cuda and all(path.is_file() for path in cifar10)
    if not has_cifar10:
        sizes = (50_000, 10_000) if on_cuda else (200, 50)
        cifar10 = (
            make_small_images(work / "train.beton", num_images=sizes[0], seed=0),
            make_small_images(work / "test.beton", num_images=sizes[1], seed=1),
        )
    return Setting(
        device=device,
        photos=photos.resolve(),
        small_images=(cifar10[0].resolve(), cifar10[1].resolve()),
        has_cifar10=has_cifar10,
        work=work,
        rows=rows,
        origin=origin,
    )
