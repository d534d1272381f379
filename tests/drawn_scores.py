"""Scores whose probability of being tampered is known, and a map's values in equal shares."""

import numpy as np
from scipy.special import expit, logit

from sapl_jax.inference.calibration import BINS

UNIFORM = np.ones(BINS) / BINS


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true probability is sigmoid(logit(score) / 2 - 0.7)."""
    rng = np.random.default_rng(seed)
    scores = expit(rng.normal(0.5, 3, count))
    return (rng.random(count) < expit(logit(scores) / 2 - 0.7)).astype(int), scores
