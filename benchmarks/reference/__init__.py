"""The experiments of `fastvit-bench reference`, and what was published about such experiments."""
