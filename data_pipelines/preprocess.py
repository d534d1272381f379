"""Turns a picture of any size into what the model sees: canvas, edge map, valid patches."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.soft_edges import DEFAULT_OPTIONS, EdgeOptions, soft_edge_map

# CLIP's mean colour in 8 bits, so that padding is about zero once the model has normalised it.
PADDING = (123, 117, 104)


@dataclass(frozen=True)
class Geometry:
    """Sizes in pixels, at least 1. size: longer side of the resized picture; patch: of a ViT."""

    size: int
    patch: int

    @property
    def canvas(self) -> int:
        """Side of the square canvas: the next multiple of `patch` that loses no pixel."""
        return self.grid * self.patch

    @property
    def grid(self) -> int:
        """Patches per side of the canvas."""
        return -(-self.size // self.patch)


PAPER_GEOMETRY = Geometry(size=512, patch=14)


class Preprocessed(NamedTuple):
    """What the model sees of a picture."""

    image: np.ndarray  # uint8 [C, C, 3]
    edge_map: np.ndarray  # float32 [g, g] in [0, 1]
    valid: np.ndarray  # bool [g, g], patches inside the picture
    resized: tuple[int, int]  # (h, w) of the picture, at the top left of the canvas


def preprocess(
    rgb: np.ndarray, geometry: Geometry, options: EdgeOptions = DEFAULT_OPTIONS
) -> Preprocessed:
    """Resizes, finds soft edges, pads. rgb: uint8 [H, W, 3] of any size."""
    resized = resize(rgb, geometry)
    height, width = resized.shape[:2]
    edge_map = patch_edge_map(resized, geometry, options)
    valid = valid_patches(height, width, geometry)
    return Preprocessed(pad(resized, geometry), edge_map, valid, (height, width))


def resize(rgb: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Scales so that the longer side is `geometry.size`; area when shrinking, cubic when growing.

    rgb: uint8 [H, W, 3]; returns uint8 [h, w, 3], the same array where the size is right already.
    """
    longer = max(rgb.shape[:2])
    if longer == geometry.size:
        return rgb
    height, width = (max(1, round(side * geometry.size / longer)) for side in rgb.shape[:2])
    method = cv2.INTER_AREA if longer > geometry.size else cv2.INTER_CUBIC
    return cv2.resize(rgb, (width, height), interpolation=method)


def pad(resized: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Places uint8 [h, w, 3] top-left on a canvas [C, C, 3] of the padding colour.

    What the last patches lack is mirrored: padding within a patch would be an edge, a false seam.
    """
    below, right = (-side % geometry.patch for side in resized.shape[:2])
    whole = cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_REFLECT_101)
    below, right = (geometry.canvas - side for side in whole.shape[:2])
    return cv2.copyMakeBorder(whole, 0, below, 0, right, cv2.BORDER_CONSTANT, value=PADDING)


def patch_edge_map(
    resized: np.ndarray, geometry: Geometry, options: EdgeOptions = DEFAULT_OPTIONS
) -> np.ndarray:
    """Soft edge map of a resized picture, uint8 [h, w, 3], at patch level, float32 [g, g].

    Mean over the picture's pixels in each patch; 0 where the patch is not valid.
    """
    height, width = resized.shape[:2]
    full = np.zeros((geometry.canvas, geometry.canvas), np.float32)
    full[:height, :width] = soft_edge_map(resized, options)
    means = cv2.resize(full, (geometry.grid, geometry.grid), interpolation=cv2.INTER_AREA)
    sums = means * np.float32(geometry.patch**2)
    covered = np.maximum(pixels_of_patches(height, width, geometry), 1).astype(np.float32)
    return sums / covered * valid_patches(height, width, geometry)


def valid_patches(height: int, width: int, geometry: Geometry) -> np.ndarray:
    """Patches with at least half their pixels inside a picture of height x width; bool [g, g]."""
    return 2 * pixels_of_patches(height, width, geometry) >= geometry.patch**2


def pixels_of_patches(height: int, width: int, geometry: Geometry) -> np.ndarray:
    """Pixels of each patch that a picture of height x width covers; int [g, g]."""
    starts = np.arange(geometry.grid) * geometry.patch
    return np.multiply.outer(*np.clip([height - starts, width - starts], 0, geometry.patch))
