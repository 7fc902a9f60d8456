"""Tables of the converters and of augmentation."""

from collections.abc import Callable

from benchmarks.documented.table import Line, Table, by, calculated, code, distinct, figure, having, number, text
from benchmarks.documented.training_tables import cpu

__all__ = ["TABLES"]

_DOCUMENTED = "documented_before_rows.jsonl"
_IMAGENET = 880_000  # images of which "How long ImageNet takes" speaks


def _minutes(line: Line) -> float:
    return _IMAGENET / figure(line, "images_per_second") / 60


def _gigabytes_per_second(name: str) -> Callable[[Line], float]:
    return lambda line: figure(line, "images_per_second") * figure(line, name) / 1e9


TABLES = {
    "converters": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="modes"),
        columns={
            "mode": code("converter"),
            "images/s": number("images_per_second"),
            "times FFCV's writer": number("ratio_to_counterpart", 1),
            "bytes an image": number("stored_bytes_per_image"),
            "loads at, images/s": number("loader_images_per_second"),
            "880,000 images": calculated(_minutes, 1, unit=" min"),
            "reads, GB/s": calculated(_gigabytes_per_second("source_bytes_per_image"), 2),
            "writes, GB/s": calculated(_gigabytes_per_second("stored_bytes_per_image"), 2),
        },
    ),
    "converters-restart": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="restart-markers"),
        columns={"method": text("method"), "µs an image": number("seconds_per_image", scale=1e6)},
    ),
    "converters-imagenet": Table(
        files=(_DOCUMENTED,),
        where=lambda row: row.get("experiment") == "imagenet-steps" and "seconds" in row,
        columns={"step": text("step"), "s": text("seconds")},
    ),
    "augmentation": Table(
        files=(_DOCUMENTED,),
        where=having(benchmark="augment"),
        line=by("policy", "resolution"),
        columns=lambda rows: {
            "policy": text("policy"),
            "resolution": number("resolution", unit=" px"),
            "CPU": cpu,
            **{str(name): text("milliseconds_per_batch", contender=name) for name in distinct(rows, "contender")},
        },
    ),
}
