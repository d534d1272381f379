"""Training: state, the pmapped step, schedules, checkpoints, writers and the loop."""
