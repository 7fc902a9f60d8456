"""Tables of loaders: next to others, by threads and records, whole images, and what the doctor predicts of them."""

from benchmarks.documented.table import (
    Column,
    Columns,
    Line,
    Table,
    between,
    by,
    calculated,
    code,
    distinct,
    figure,
    having,
    number,
    percent,
    rate,
    text,
    value,
)
from benchmarks.documented.training_tables import cpu
from benchmarks.row_files import Row

__all__ = ["TABLES"]

_DOCUMENTED = "documented_before_rows.jsonl"
_DALI = "zen4_2026-11-27_loaders.jsonl"
_SUITE = "zen4_2026-11-27_suite.jsonl"
_SCALING = "zen4_2026-11-27_scaling.jsonl"
_IMREAD = "zen4_2026-11-27_imread.jsonl"
_DOCTOR = "zen4_2026-11-27_doctor.jsonl"

_DALI_DATA = {
    "photos.beton": "`.beton`",
    "photos_restart.beton": "`.beton` with restart markers",
    "shards": "the same in tar shards",
    "tfrecord": "the same in TFRecord shards",
}
_LOADER = code("loader")

# Cases that the first pages show.
_FRONT_CASES = {"train": "of at most 500 px", "restart": "the same with restart markers"}


def _front_case(row: Row) -> str:
    """The case of a row of the suite, or of one that was documented before there was a suite."""
    return str(row.get("suite_case") or ("restart" if row["restart_markers"] else "train"))


def _times_native(**match: object) -> Column:
    """How many times as fast as this contender native is, where native is the first one."""
    return calculated(lambda line: 1 / figure(line, "ratio_to_first", **match), 2)


def _case(name: object) -> Column:
    """A cell of a contender: its speed in one case, and how many times as fast native is."""
    speed, times = number("images_per_second", suite_case=name), _times_native(suite_case=name)
    return lambda line: f"{speed(line)} ({times(line)})" if speed(line) else ""


def _times(name: str) -> Column:
    """How many times as fast as another loader native is: from the other's row, or documented in that of native."""
    measured = _times_native(loader=name)

    def cell(line: Line) -> str:
        ratio, ends = (value(line[0], f"times_others{more}__{name}") for more in ("", "_lowest_and_highest"))
        if ratio is None:
            return measured(line)
        return f"{ratio:.2f} ({between(*ends, digits=2)})" if isinstance(ends, list) else f"{ratio}"

    return cell


def _standing(name: object) -> Column:
    """The speed of native in a case, and how many times as fast it is as the fastest other."""

    def cell(line: Line) -> str:
        speeds = {row["loader"]: row["images_per_second"] for row in line if row["suite_case"] == name}
        mine, others = speeds.pop("native", None), [speeds[other] for other in speeds if other != "limit"]
        if mine is None:
            return ""
        return f"{mine:,.0f} ({mine / max(others):.2f})" if others else f"{mine:,.0f}"

    return cell


def _what(line: Line) -> str:
    return f"`{line[0]['case']}`{', restart markers' if line[0].get('restart_markers') else ''}"


def _threads(rows: Line) -> Columns:
    columns: dict[str, Column] = {"loader": _LOADER}
    for threads in distinct(rows, "threads"):
        columns[f"images/s with {threads}"] = rate(threads=threads)
        if threads != 1:
            columns[f"share of linear with {threads}"] = percent("share_of_linear", threads=threads)
    return columns


def _decoders(rows: Line) -> Columns:
    columns: dict[str, Column] = {"decoder": text("decoder"), "version": text("version")}
    for threads in distinct(rows, "threads"):
        columns[f"images/s with {threads}"] = rate(threads=threads)
        columns[f"MP/s with {threads}"] = number("megapixels_per_second", threads=threads)
    return columns


TABLES = {
    "loaders": Table(
        files=(_SUITE,),
        where=having(benchmark="loader", suite_case="train"),
        order=lambda line: -figure(line, "images_per_second"),
        columns={
            "contender": _LOADER,
            "images/s": rate(),
            "times as fast `native` is": _times_native(),
            "CPU µs an image": number("cpu_seconds_per_image", scale=1e6),
            "memory, MiB": number("peak_rss_bytes", scale=2**-20),
        },
    ),
    "loaders-cases": Table(
        files=(_SUITE,),
        where=lambda row: row["benchmark"] == "loader" and "suite_case" in row,
        line=by("loader"),
        columns=lambda rows: {"contender": _LOADER} | {str(name): _case(name) for name in distinct(rows, "suite_case")},
    ),
    "loaders-cpus": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="other-cpus"),
        columns={
            "CPU": cpu,
            "case": _what,
            "`native`, images/s": rate(),
            "times `ffcv`": _times("ffcv"),
            "times `torch`": _times("torch"),
            "times `limit`": _times("limit"),
        },
    ),
    "loaders-dali": Table(
        files=(_DALI,),
        where=having(benchmark="loader"),
        line=by("data", "case"),
        columns={
            "500 photos of at most 500 px": lambda line: f"{_DALI_DATA[line[0]['data']]}, `{line[0]['case']}`",
            "`dali`, images/s": rate(loader="dali"),
            "`dali` / `dali-plain`": calculated(
                lambda line: 1 / figure(line, "ratio_to_first", loader="dali-plain"), 2
            ),
            "`native` / `dali`": number("ratio_to_first", 2, loader="native"),
            "CPU µs an image: `dali`": number("cpu_seconds_per_image", scale=1e6, loader="dali"),
            "`dali-plain`": number("cpu_seconds_per_image", scale=1e6, loader="dali-plain"),
        },
    ),
    "backend-cores": Table(
        files=(_DALI,),
        where=lambda row: row["case"] == "train" and row["data"].endswith(".beton") and row["loader"] != "dali-plain",
        line=by("loader"),
        order=lambda line: figure(line, "cpu_seconds_per_image"),
        columns={
            "backend": lambda line: {"dali": "`dali`, `--data.decode cpu`"}.get(line[0]["loader"], _LOADER(line)),
            "CPU cores for 1,000 images/s": number("cpu_seconds_per_image", 2, scale=1000, data="photos.beton"),
            "with restart markers": number("cpu_seconds_per_image", 2, scale=1000, data="photos_restart.beton"),
        },
    ),
    "loaders-home": Table(
        files=(_SUITE, _DOCUMENTED),
        where=lambda row: (
            row.get("suite_case") in _FRONT_CASES
            or (having(experiment="other-cpus", case="train")(row) and cpu([row]) == "Zen 5")
        ),
        line=by("file", "suite_case", "restart_markers"),
        columns={
            "random crops of photos to 224 px": lambda line: _FRONT_CASES[_front_case(line[0])],
            "fastvit, images/s": rate(loader="native"),
            "times FFCV": _times("ffcv"),
            "times DALI on the CPU": _times("dali-plain"),
            "times PyTorch's `DataLoader`": _times("torch"),
            "two CPU cores": cpu,
        },
    ),
    "scaling-threads": Table(
        files=(_SUITE, _SCALING),
        where=having(benchmark="scaling", over="threads"),
        line=by("loader"),
        columns=_threads,
    ),
    "scaling-records": Table(
        files=(_SUITE, _SCALING),
        where=having(benchmark="scaling", over="records"),
        columns={
            "loader": _LOADER,
            "records": number("records"),
            "images/s": rate(),
            "to open, s": number("open_seconds", 2),
            "first batch, s": number("first_batch_seconds", 2),
            "peak MiB": number("peak_rss_bytes", scale=2**-20),
            "anonymous MiB": number("anonymous_rss_bytes", scale=2**-20),
        },
    ),
    "imread": Table(
        files=(_SUITE, _IMREAD),
        where=having(benchmark="imread"),
        line=by("decoder"),
        order=lambda line: -figure(line, "images_per_second"),
        columns=_decoders,
    ),
    "doctor-check": Table(
        files=(_DOCTOR,),
        where=lambda row: row["benchmark"] == "doctor" and row.get("measured_images_per_second") is not None,
        columns={
            "data": lambda line: line[0]["data"].rstrip("/").rpartition("/")[2],
            "case": text("case"),
            "px": text("resolution"),
            "threads": text("threads"),
            "changed": text("option"),
            "limited by": text("limited_by"),
            "predicted, images/s": number("predicted_images_per_second"),
            "measured, images/s": number("measured_images_per_second"),
            "miss": lambda line: f"{100 * line[0]['miss']:+.1f} %",
        },
    ),
    "leaderboard": Table(
        files=("leaderboard/*.jsonl",),
        where=lambda row: row["benchmark"] == "loader" and "suite_case" in row,
        line=by("file"),
        columns=lambda rows: {
            "CPU": text("machine__cpu"),
            "cores": text("machine__cores"),
            "threads": text("threads"),
            **{str(name): _standing(name) for name in distinct(rows, "suite_case")},
        },
    ),
}
