"""What the examination found, as a user reads it."""

from benchmarks.row_files import Row
from benchmarks.rows import print_table

__all__ = ["print_report"]

_WORTH = 1.03
"""A change that gains less is within what one run differs from the next."""


def print_report(row: Row) -> None:
    """Print the prediction, what limits, the options, the cores for GPUs."""
    facts = row["facts"]
    _print_options(row)
    for line in _sentences(row, facts):
        print(line)


def _print_options(row: Row) -> None:
    shown = [{"name": "as it is", "predicted_images_per_second": row["predicted_images_per_second"], "gain": 1.0}]
    shown += row["options"]
    columns = {
        "option": [one["name"] for one in shown],
        "images/s": [f"{one['predicted_images_per_second']:,.0f}" for one in shown],
        "gain": [f"{one['gain']:.2f} x" for one in shown],
        "data": [_size(one.get("data_bytes", row["facts"]["data_bytes"])) for one in shown],
        "what else changes": [one.get("note", "") for one in shown],
    }
    title = f"{row['data']}, {row['case']}, {row['resolution']} px, {row['threads']} threads: what the loader will make"
    print_table(title, columns, [row])


def _sentences(row: Row, facts: Row) -> list[str]:
    limits = {name: rate for name, rate in row["limits"].items() if rate is not None}
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in limits.items())
    lines = [_machine(facts), f"Limits in images/s: {rates}; {row['limited_by']} is the lowest."]
    if not facts["data_fits_in_cache"]:
        lines.append(
            f"The data, {_size(facts['data_bytes'])}, do not fit into the {_size(facts['cache_bytes'])} of memory that "
            "files may have: the disk counts in every epoch."
        )
    elif row["first_epoch_images_per_second"] < row["predicted_images_per_second"]:
        lines.append(
            f"The first epoch comes from the disk: about {row['first_epoch_images_per_second']:,.0f} images/s."
        )
    if row["training_images_per_second"] is not None:
        lines.append(f"Training as {row['preset']} does: {row['training_images_per_second']:,.0f} images/s.")
    if scaling := row["scaling"]:
        one = scaling["1"]
        share = row["limits"]["decode"] / (row["threads"] * one)
        lines.append(
            f"One thread makes {one:,.0f} images/s, {row['threads']} threads {share:.0%} of so many times that."
        )
    cores = ", ".join(f"{name} {number}" for name, number in row["cores_for_gpus"].items())
    lines.append(f"Cores like these that keep one GPU busy with {row['gpu_preset']}: {cores}.")
    lines.append(_advice(row))
    if "miss" in row:
        lines.append(
            f"The loader made {row['measured_images_per_second']:,.0f}: the prediction is off by {row['miss']:+.1%}."
        )
    return [*lines, *row["notes"]]


def _machine(facts: Row) -> str:
    quota = "" if facts["cgroup_quota"] is None else f", of which the container gets {facts['cgroup_quota']:g}"
    disk = facts["disk_bytes_per_second"]
    reads = "" if disk is None else f"; the disk gives {_size(disk)}/s"
    return (
        f"{facts['affinity']} CPUs on {facts['physical_cores']} cores{quota}, {facts['simd']}; "
        f"{_size(facts['data_bytes'])} of data, of which memory has {facts['cached_fraction']:.0%}{reads}."
    )


def _advice(row: Row) -> str:
    """What to do next."""
    loader, training = row["predicted_images_per_second"], row["training_images_per_second"]
    if training is not None and row["limits"]["step"] / training < _WORTH:
        return f"The loader keeps up: it makes {loader / row['limits']['step']:,.1f} times what the step takes."
    best = next((option for option in row["options"] if option["gain"] >= _WORTH), None)
    return f"What gains most: {best['how']}" if best else "No change of these data or options gains anything."


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
