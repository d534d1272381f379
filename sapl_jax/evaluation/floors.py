"""Trivial predictors: what any method has to beat on a data set; they stand in every table."""

import zlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data_pipelines.soft_edges import DEFAULT_OPTIONS, soft_edge_map
from sapl_jax.evaluation.session import Method
from sapl_jax.inference.detector import Result, result_of

_CELLS = 12  # the random map's cells along each side: about the size of a ViT's patches


class TrivialDetector:
    """Applies one function to every picture."""

    def __init__(self, predict: Callable[[np.ndarray], Result]) -> None:
        self._predict = predict

    def analyse(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Analyses uint8 RGB pictures [H, W, 3] of any sizes."""
        return [self._predict(image) for image in images]


def everything_tampered(image: np.ndarray) -> Result:
    """Every pixel of every picture is tampered."""
    return result_of(1.0, np.ones(image.shape[:2], np.float32))


def random_guess(image: np.ndarray) -> Result:
    """A random score and a random map of coarse cells; the same picture gets the same guess."""
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    cells = rng.random((_CELLS, _CELLS), dtype=np.float32)
    size = (image.shape[1], image.shape[0])
    heat_map = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST)
    return result_of(float(rng.random()), heat_map)


def edge_map_alone(image: np.ndarray) -> Result:
    """The soft edge map of Eq. (1) as the heat map, its mean as the score."""
    heat_map = soft_edge_map(image, DEFAULT_OPTIONS)
    return result_of(float(heat_map.mean()), heat_map)


TRIVIAL = {
    "everything tampered": TrivialDetector(everything_tampered),
    "random": TrivialDetector(random_guess),
    "edge map alone": TrivialDetector(edge_map_alone),
}


def floors() -> list[Method]:
    """The trivial predictors as methods."""
    return [
        Method(name, found, {"training": "none"}, floor=True) for name, found in TRIVIAL.items()
    ]
