"""Training configurations: `sapl.py` is the paper, the others are changes of it."""
