"""Training configurations: `sapl.py` is the paper, the others are smaller forms of it."""
