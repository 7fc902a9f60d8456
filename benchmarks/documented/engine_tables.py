"""Tables of what was measured of the C++ engine itself."""

from benchmarks.documented.table import Table, by, distinct, having, number, percent, text

__all__ = ["TABLES"]

_DOCUMENTED = "documented_before_rows.jsonl"

TABLES = {
    "engine-profile": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="profile"),
        columns={"step": text("step"), "share": percent("share_of_time", 0)},
    ),
    "engine-look-up": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="look-up"),
        line=by(),
        columns=lambda rows: {
            "bits of the look-up (10 are taken)": lambda _: "cycles for a block",
            **{str(bits): number("cycles_per_block", bits=bits) for bits in distinct(rows, "bits")},
        },
    ),
    "engine-ahead": Table(
        files=(_DOCUMENTED,),
        where=having(experiment="ahead"),
        line=by(),
        columns=lambda rows: {
            "rows of MCUs ahead (4 are taken)": lambda _: "symbols without a partner",
            **{
                str(ahead): percent("share_of_symbols_alone", 0, mcu_rows_ahead=ahead)
                for ahead in distinct(rows, "mcu_rows_ahead")
            },
        },
    ),
}
