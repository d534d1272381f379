"""Training: state, the pmapped step, checkpoints, what shows a run, and the loop."""
