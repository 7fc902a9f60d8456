"""What `fastvit-bench train` makes of its measurements: the verdict, and the search for faster settings."""
