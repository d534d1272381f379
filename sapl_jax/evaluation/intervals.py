"""How sure a measure is: the bootstrap over pictures, each class drawn again on its own.

Methods that saw the same pictures get the same draws, so that they are compared picture by picture.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sapl_jax.evaluation.protocols import ImageScores, Protocol, measures

DRAWS = 2000
COVERAGE = 0.95
_CELLS = 1 << 21  # draws times pictures worked on at a time: 16 MB each of a few arrays

Draws = dict[str, np.ndarray]  # measure -> float64 [DRAWS]
Named = Mapping[str, ImageScores]  # a picture's name -> its scores


def bootstrap(protocol: Protocol, images: Named) -> Draws:
    """Every defined measure of each of DRAWS data sets, drawn with replacement within the classes.

    The draws depend on the pictures' names and labels alone.
    """
    scores = list(images.values())
    parts = [measures(protocol, scores, weights) for weights in _weights(images)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _weights(images: Named) -> Iterator[np.ndarray]:
    """How often each draw has each picture: float64 [d, N] at a time, DRAWS in all."""
    labels = np.array([image.label for image in images.values()])
    rng = np.random.default_rng(zlib.crc32("\n".join(images).encode("utf-8", "surrogatepass")))
    step = max(1, _CELLS // len(labels))
    for count in [step] * (DRAWS // step) + [DRAWS % step] * (DRAWS % step > 0):
        weights = np.zeros((count, len(labels)))
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            drawn = rng.integers(own.size, size=(count, own.size))
            drawn += own.size * np.arange(count)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=count * own.size)
            weights[:, own] = counts.reshape(count, own.size)
        yield weights


def interval(draws: np.ndarray | None) -> list[float] | None:
    """The middle COVERAGE of the draws as [low, high]; None without draws."""
    if draws is None or np.isnan(draws).all():
        return None
    tail = (1 - COVERAGE) / 2
    return [float(value) for value in np.nanquantile(draws, [tail, 1 - tail])]


def compare(
    protocol: Protocol, first: tuple[Named, Draws], second: tuple[Named, Draws]
) -> dict[str, dict[str, Any]]:
    """Two methods, each its pictures and their draws, on the pictures that both have.

    Returns:
        Per measure that both define: "ahead", the share of draws in which the first is larger (ties
        half), "difference", the interval of first minus second, "apart", whether that has no 0, and
        "images", how many pictures.
    """
    common = [name for name in first[0] if name in second[0]]
    if not common:
        return {}
    a, b = (
        draws if list(of) == common else bootstrap(protocol, {name: of[name] for name in common})
        for of, draws in (first, second)
    )
    found = {}
    for measure in [name for name in a if name in b]:
        difference = a[measure] - b[measure]
        if (bounds := interval(difference)) is not None:
            found[measure] = {
                "ahead": float(np.nanmean(np.sign(difference)) / 2 + 0.5), "difference": bounds,
                "apart": bounds[0] > 0 or bounds[1] < 0, "images": len(common),
            }  # fmt: skip
    return found
