"""Training configurations: `sapl.py` is the paper, the others are smaller or ablated forms of it."""
