"""Tables of `fastvit-bench plan`: what so many GPUs need, and plans next to runs."""

from benchmarks.documented.table import Line, Table, code, first, having, number, text

__all__ = ["TABLES"]

_PLANS = "plan_*.jsonl"
_CHECK = "zen4_2026-11-27_plan_check.jsonl"


def _shares(line: Line) -> str:
    """What else than steps the time goes to, the largest first, as far as it counts."""
    shares = sorted(((share, name) for name, share in line[0]["shares"].items() if name != "step"), reverse=True)
    return ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f} %" for share, name in shares if share >= 0.005)


def _job(line: Line) -> str:
    return f"`{first(line, 'preset')}`, {first(line, 'epochs'):g} epochs"


TABLES = {
    "plan-hours": Table(
        files=(_PLANS,),
        where=having(benchmark="plan"),
        columns={
            "preset": code("preset"),
            "GPUs": number("num_gpus"),
            "images a step": number("batch_size"),
            "images/s": number("images_per_second"),
            "hours": lambda line: f"{line[0]['hours']:.3g}",
            "kWh": number("kilowatt_hours"),
            "price": number("price"),
            "limited by": text("limited_by"),
            "not in steps": _shares,
        },
    ),
    "plan-needs": Table(
        files=(_PLANS,),
        where=having(benchmark="plan"),
        columns={
            "preset": code("preset"),
            "GPUs": number("num_gpus"),
            "images a step": number("batch_size"),
            "loader of a machine, images/s": number("needs__loader_images_per_second_per_node"),
            "cores": number("needs__cores_per_node", 1),
            "storage, MB/s": number("needs__storage_bytes_per_second_per_node", scale=1e-6),
            "network, Gb/s": number("needs__network_bytes_per_second_per_node", scale=8e-9),
        },
    ),
    "plan-check": Table(
        files=(_CHECK,),
        where=lambda row: row["benchmark"] == "plan" and "measured_hours" in row,
        columns={
            "preset": _job,
            "model": code("arch"),
            "planned, s": number("hours", 1, scale=3600),
            "measured, s": number("measured_hours", 1, scale=3600),
            "miss": lambda line: f"{100 * line[0]['miss']:+.1f} %",
        },
    ),
}
