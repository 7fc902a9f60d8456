"""The recipes behind the presets, by dataset."""
