"""Benchmarks: what the loaders do, measured side by side."""
