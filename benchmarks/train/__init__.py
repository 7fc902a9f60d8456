"""The parts of `fastvit-bench train`: how steps are measured, the verdict, and the search for faster settings."""
