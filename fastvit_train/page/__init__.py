"""Reports as one self-contained HTML page: what they consist of, how they look, and those of runs."""
