"""All tables of the documents, by the name that stands in `<!-- rows: NAME -->`."""

from benchmarks.documented import (
    converter_tables,
    engine_tables,
    gpu_tables,
    loader_tables,
    plan_tables,
    reference_tables,
    training_tables,
)
from benchmarks.documented.table import Table

__all__ = ["TABLES"]

TABLES: dict[str, Table] = {
    **loader_tables.TABLES,
    **converter_tables.TABLES,
    **training_tables.TABLES,
    **plan_tables.TABLES,
    **gpu_tables.TABLES,
    **engine_tables.TABLES,
    **reference_tables.TABLES,
}
