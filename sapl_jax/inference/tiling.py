"""Analyses large pictures in overlapping tiles, so that detail survives and memory stays bounded.

A detector with a fixed canvas shrinks a picture to it. `TiledDetector` hands it tiles of the
picture instead and blends their heat maps; the image score is the shrunken picture's, or that of
the most suspicious tiles where the detector learned from pictures that nothing had shrunk.
Besides the picture, its memory is a float32 map and a bool mask of its size, and a batch of tiles.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.progress_bars import ProgressBar
from sapl_jax.inference.detector import Result, logit, result_of


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles of `tile` pixels start along a side of `length` pixels.

    Neighbours share at least `overlap` (0 to under 1) of a tile; starts are spread evenly and the
    last tile ends at the side's end. One tile where the side is not longer than the tile.
    """
    if length <= tile:
        return [0]
    stride = max(1, math.floor(tile * (1 - overlap)))
    count = math.ceil((length - tile) / stride) + 1
    return [round(step * (length - tile) / (count - 1)) for step in range(count)]


def blend_weights(length: int) -> np.ndarray:
    """Weights float32 [length] of a tile's pixels along one side: a triangle above zero."""
    positions = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(positions, length - positions)


@dataclass(frozen=True)
class TiledDetector:
    """Wraps a detector; pictures whose longer side is over `tile` pixels are analysed in tiles.

    whole: what analyses pictures as they are, a detector's `analyse`. overlap: share of a tile that
    neighbours have in common, 0 to 0.9. batch: tiles per call of `whole`. threshold: of the mask.
    share: the score's log-odds are the mean over this share of the tiles, those with the highest;
    None: the score is the whole picture's, as without tiles.
    """

    whole: Callable[[Sequence[np.ndarray]], Sequence[Result]]
    tile: int
    overlap: float = 0.25  # that calibrations are made with
    batch: int = 8
    threshold: float = 0.5
    share: float | None = None

    def analyse(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Analyses uint8 RGB pictures [H, W, 3] of any sizes."""
        small = [image for image in images if max(image.shape[:2]) <= self.tile]
        whole = iter(self.whole(small) if small else [])
        return [
            self._analyse_large(image) if max(image.shape[:2]) > self.tile else next(whole)
            for image in images
        ]

    def _analyse_large(self, image: np.ndarray) -> Result:
        (rows, weight_y, total_y), (columns, weight_x, total_x) = map(self._axis, image.shape[:2])
        weight = weight_y[:, None] * weight_x[None, :]
        heat_map = np.zeros(image.shape[:2], np.float32)
        height, width = weight.shape
        # The picture itself, where it gives the score, is a part: one shape to compile.
        extra = 0 if self.share else 1
        parts = [(slice(None), slice(None))] * extra
        parts += [np.s_[y : y + height, x : x + width] for y in rows for x in columns]
        scores, flat, least = [], [], [np.inf]
        with ProgressBar(total=len(parts), desc="tiles", leave=False) as bar:
            # Equal batches: a last one of a single tile would be a second shape.
            for some in np.array_split(np.arange(len(parts)), math.ceil(len(parts) / self.batch)):
                found = self.whole([image[parts[n]] for n in some])
                for n, analysis in zip(some, found, strict=True):
                    scores.append(analysis.score)
                    if n >= extra and analysis.heat_map.any():
                        heat_map[parts[n]] += weight * analysis.heat_map
                        least.append(analysis.heat_map.min())
                    elif n >= extra:
                        flat.append(parts[n])
                bar.update(len(some))
        for part in flat if len(least) > 1 else ():
            # Of one colour, they tell nothing: at 0 they would set where a stretched map begins.
            heat_map[part] += weight * min(least)
        # Tiles form a grid, so the weights add up to an outer product: no map of weights needed.
        heat_map /= total_y[:, None]
        heat_map /= total_x[None, :]
        np.clip(heat_map, 0, 1, out=heat_map)
        score = scores[0]
        if self.share:
            highest = np.sort(logit(np.array(scores)))[-max(1, round(self.share * len(scores))) :]
            score = 1 / (1 + np.exp(-highest.mean()))
        return result_of(score, heat_map, self.threshold)

    def _axis(self, length: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Along one side: where tiles start, the weights of a tile, and the sum of all weights."""
        starts = tile_starts(length, self.tile, self.overlap)
        weights = blend_weights(min(self.tile, length))
        total = np.zeros(length, np.float32)
        for start in starts:
            total[start : start + len(weights)] += weights
        return starts, weights, total
