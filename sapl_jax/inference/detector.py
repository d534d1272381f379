"""What analyses pictures, and what it says of one: models, classics, floors and tiles alike."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

_CLIP = 1e-6


class Result(NamedTuple):
    """What a method says of one picture."""

    score: float  # probability-like: whether the picture is tampered, in [0, 1]
    heat_map: np.ndarray  # [H, W] float32 in [0, 1], at the picture's own size
    mask: np.ndarray  # [H, W] bool, heat map > the method's threshold


class Detector(Protocol):
    """A method: a `Localizer`, or a training-free one, perhaps behind tiles."""

    def analyse(self, images: Sequence[np.ndarray]) -> Sequence[Result]:
        """One result for each uint8 RGB picture [H, W, 3] of any size, in order."""


def logit(score: float | np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of scores of any shape; those nearer to 0 and 1 than 1e-6 count as that."""
    clipped = np.clip(score, _CLIP, 1 - _CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def is_finite(result: Result) -> bool:
    """Whether score and heat map are numbers."""
    # A sum is NaN or infinite if any term is, and needs no mask of the map's size.
    return math.isfinite(result.score) and math.isfinite(float(result.heat_map.sum()))


def result_of(score: float, heat_map: np.ndarray, threshold: float = 0.5) -> Result:
    """The result of a score and a heat map, as in `Result`."""
    return Result(float(score), heat_map, heat_map > threshold)
