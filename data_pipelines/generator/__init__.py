"""The picture generator: procedural scenes, simulated cameras, forgeries with masks."""
