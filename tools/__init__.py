"""Offline tools: they turn archives and folders of images into files that load fast."""
