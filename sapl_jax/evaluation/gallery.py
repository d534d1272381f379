"""Keeps a few pictures of each data set, with masks and heat maps, for the report's figures."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.listing import TAMPERED, Listing, Sample
from sapl_jax.evaluation.evaluator import Loaded
from sapl_jax.evaluation.protocols import ImageScores
from sapl_jax.inference.drawing import shrink

SIDE = 512  # longer side of a kept picture, in pixels


@dataclasses.dataclass
class Exhibit:
    """One picture of a gallery, at most SIDE pixels wide or high.

    Attributes:
        image: uint8 RGB [h, w, 3].
        mask: bool [h, w] or None.
        heat_maps: float32 [h, w] per method.
        p_f1: per method, None where the picture has no mask.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray | None
    heat_maps: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    p_f1: dict[str, float | None] = dataclasses.field(default_factory=dict)


def evenly_spaced(samples: list[Sample], count: int) -> list[Sample]:
    """`count` of the samples (all, if there are fewer), spread evenly over their order."""
    if len(samples) <= count:
        return samples
    return [samples[round(i * (len(samples) - 1) / max(1, count - 1))] for i in range(count)]


class Gallery:
    """Collects exhibits of one data set while methods are evaluated on it.

    The pictures are chosen by position in the listing, never by how well a method does on them:
    tampered ones with a mask, or any tampered ones where there is no mask.
    """

    def __init__(self, listing: Listing, count: int) -> None:
        tampered = [sample for sample in listing.samples if sample.label == TAMPERED]
        masked = [sample for sample in tampered if sample.mask is not None]
        self._wanted = {sample.name for sample in evenly_spaced(masked or tampered, count)}
        self.exhibits: dict[str, Exhibit] = {}

    def observer(self, method: str) -> Any:
        """The function that `evaluate_dataset` calls with every picture of this method."""

        def observe(loaded: Loaded, analysis: Any, scores: ImageScores) -> None:
            name = loaded.sample.name
            if name not in self._wanted or loaded.image is None:
                return
            if name not in self.exhibits:
                mask = None if loaded.mask is None else shrink(loaded.mask, SIDE) > 127
                self.exhibits[name] = Exhibit(name, shrink(loaded.image, SIDE), mask)
            exhibit = self.exhibits[name]
            exhibit.heat_maps[method] = shrink(analysis.heat_map, SIDE)
            exhibit.p_f1[method] = scores.p_f1

        return observe
