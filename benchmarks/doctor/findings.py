"""What the examination found, and what follows from it: the row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from benchmarks.doctor.options import Option
from benchmarks.doctor.prediction import Storage, limiting, loader_rate, training_rate
from benchmarks.doctor.reading import Reading
from benchmarks.intervals import median
from benchmarks.row_files import Row
from loaders import LoaderConfig
from loaders.cpus import num_threads

__all__ = ["NOW", "Findings"]

NOW = "now"
"""What the variant is called that loads as it is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What was measured."""

    config: LoaderConfig
    """How the data are to be loaded."""
    facts: Mapping[str, Any]
    """Of the machine."""
    storage: Storage
    reading: Reading
    options: Sequence[Option]
    speeds: Mapping[str, Sequence[float]]
    """Images per second in memory, of each variant in each round: `NOW`, the options', and those of numbers of threads
    by the number."""
    noise: Row
    """How quiet the machine was meanwhile."""
    copy_bytes_per_second: float | None
    """To the GPU, if there is one."""
    step_images_per_second: float | None
    step_problem: str | None
    """Why it was not measured, where one was wanted."""
    steps_on_gpus: Mapping[str, float]
    """Images per second of cards."""

    def row(self) -> Row:
        """The figures, and what they mean."""
        decode, interval = median(self.speeds[NOW])
        limits = {
            "decode": decode,
            "disk": self.storage.disk_limit(self.reading),
            "copy": self._copy,
            "step": self.step_images_per_second,
        }
        loader = self._loader(decode, limits["disk"], self.storage)
        return {
            "facts": {**self.facts, **self._data_facts()},
            "limits": limits,
            "limited_by": limiting(limits),
            "predicted_images_per_second": loader,
            "decode_interval": interval,
            "first_epoch_images_per_second": self._loader(
                decode, self.storage.first_epoch_limit(self.reading), self.storage
            ),
            "training_images_per_second": self._training(loader),
            "scaling": {name: median(values).value for name, values in self.speeds.items() if name.isdecimal()},
            "options": self._ranked(loader),
            "cores_for_gpus": {name: self._cores(rate, decode) for name, rate in self.steps_on_gpus.items()},
            "steps_on_gpus": dict(self.steps_on_gpus),
            "noise": self.noise,
            "notes": [] if self.step_problem is None else [self.step_problem],
        }

    @property
    def _copy(self) -> float | None:
        return self.copy_bytes_per_second and self.copy_bytes_per_second / (3 * self.config.resolution**2)

    def _loader(self, decode: float, disk: float | None, storage: Storage) -> float:
        return loader_rate(decode, disk, self._copy, is_mapped=storage.is_mapped)

    def _training(self, loader: float) -> float | None:
        step = self.step_images_per_second
        return None if step is None else training_rate(loader, step, on_gpu=self.config.device.type == "cuda")

    def _cores(self, rate: float, decode: float) -> int:
        """How many cores like those that were at work load so many images per second."""
        at_work = min(num_threads(self.config.num_workers), int(self.facts["cores"]))
        return ceil(rate * at_work / decode)

    def _ranked(self, now: float) -> list[Row]:
        """The options, the one that gains most first."""
        rows = []
        for option in self.options:
            storage = replace(
                self.storage,
                bytes_per_image=option.bytes_per_image,
                is_mapped=option.is_mapped,
                order=option.variant.config.order,
            )
            decode, _ = median(self.speeds[option.name])
            rate = self._loader(decode, storage.disk_limit(self.reading), storage)
            figures = {"predicted_images_per_second": rate, "gain": rate / now, "data_bytes": storage.num_bytes}
            rows.append({"name": option.name, "how": option.how, **figures, "note": option.note})
        return sorted(rows, key=lambda row: -row["gain"])

    def _data_facts(self) -> Row:
        storage, reading = self.storage, self.reading
        return {
            "num_images": storage.num_images,
            "bytes_per_image": storage.bytes_per_image,
            "data_bytes": storage.num_bytes,
            "data_fits_in_cache": storage.fits,
            "cached_fraction": reading.cached_fraction,
            "page_cache_bytes_per_second": reading.page_cache_bytes_per_second,
            "disk_bytes_per_second": reading.random_bytes_per_second,
            "disk_runs_bytes_per_second": reading.runs_bytes_per_second,
        }
