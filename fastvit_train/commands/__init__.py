"""What `fastvit-train` does with a trained model: one module for each command."""
