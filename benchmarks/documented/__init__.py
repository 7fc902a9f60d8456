"""Figures of the documents, from the rows in `benchmarks/results`.

A table stands between `<!-- rows: NAME -->` and `<!-- end -->`. `benchmarks.documented.tables` says which rows and
columns it has, and `python -m benchmarks.documented --write` fills it in. Without `--write`, as `make docs` runs it,
the command fails where a document says something else than the rows. It needs nothing but Python.
"""
