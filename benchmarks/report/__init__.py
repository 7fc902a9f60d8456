"""How rows of each benchmark are shown in a report."""
