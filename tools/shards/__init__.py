"""Shards of images for DALI and WebDataset, each with its index: writers and formats."""
