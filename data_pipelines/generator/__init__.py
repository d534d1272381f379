"""The benchmark generator: procedural scenes, simulated cameras, forgeries with masks."""
