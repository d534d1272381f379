"""Forgeries of three kinds with masks: splicing, copy-move, removal by inpainting."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from data_pipelines.generator.scenes import blob

KINDS = ("splicing", "copy-move", "removal")
SHARES = (0.04, 0.25)  # the smallest and the largest share of a picture that a forgery covers
SOFT = (0.4, 1.6)  # Gaussian sigmas of an outline, pixels: an edge softened over up to two
Turn = Callable[[], tuple[float, float]]  # draws scale and angle of one paste
Pasted = tuple[np.ndarray, np.ndarray]  # a picture, uint8 [H, W, 3], and its mask, uint8 [H, W]


@dataclass(frozen=True)
class Source:
    """A photograph, uint8 RGB [H, W, 3], and the objects in it, uint8 masks [H, W]."""

    picture: np.ndarray
    objects: list[np.ndarray]


def fits(mask: np.ndarray) -> bool:
    """Whether the mask, uint8 [H, W], covers a share within SHARES."""
    return SHARES[0] <= float(np.mean(mask > 127)) <= SHARES[1]


def choose_region(rng: Generator, source: Source, objects: float = 0.5) -> np.ndarray:
    """A region worth cutting out, uint8 [H, W] 0 or 255: an object of the scene or a drawn outline.

    `objects` is the probability of trying the scene's own objects first.
    """
    height, width = source.picture.shape[:2]
    if source.objects and rng.random() < objects:
        mask = source.objects[int(rng.integers(len(source.objects)))]
        mask = np.where(mask > 127, 255, 0).astype(np.uint8)
        # Leaves and branches are lace; closing makes them a region that someone would cut out.
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
        if fits(mask):
            return mask
    while True:
        share = np.exp(rng.uniform(*np.log(SHARES)))
        radius = np.sqrt(share * height * width / np.pi)
        centre = (rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height)
        if rng.random() < 0.75:
            outline = blob(rng, centre, radius)
        else:
            size = (2 * radius * rng.uniform(0.7, 1.1), 1.5 * radius)
            outline = cv2.boxPoints((centre, size, rng.uniform(-30, 30)))
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255)
        if fits(mask):
            return mask


def draw_paste(
    rng: Generator,
    source: Source,
    target: Source,
    turn: Turn,
    objects: float = 0.5,
    how: int = cv2.INTER_LINEAR,
) -> Pasted:
    """A region of `source` (see `choose_region`) moved onto a canvas as large as `target`.

    `turn` draws its scale and its angle in degrees; `how`, OpenCV's interpolation. Returns the
    moved picture, uint8 [H, W, 3], and the region's mask. In `source` itself less than half of a
    copy lies on its origin.
    """
    height, width = target.picture.shape[:2]
    while True:
        region = choose_region(rng, source, objects)
        scale, angle = turn()
        left, top, wide, tall = cv2.boundingRect(region)
        centre = (left + wide / 2, top + tall / 2)
        matrix = cv2.getRotationMatrix2D(centre, angle, scale)
        if rng.random() < 0.3:  # Mirrored about its own centre.
            matrix = matrix @ np.array([[-1, 0, 2 * centre[0]], [0, 1, 0], [0, 0, 1]], float)
        # At least half of the region's box stays inside on each side.
        matrix[0, 2] += rng.uniform(wide / 4, max(width - wide / 4, wide / 4)) - centre[0]
        matrix[1, 2] += rng.uniform(tall / 4, max(height - tall / 4, tall / 4)) - centre[1]
        if scale == 1 and angle == 0:  # A plain paste lands on whole pixels, as in any editor.
            matrix[:, 2] = np.round(matrix[:, 2])
        moved = cv2.warpAffine(region, matrix, (width, height))
        mask = np.where(moved > 127, 255, 0).astype(np.uint8)
        if fits(mask) and (source is not target or np.mean(region[mask > 0] > 0) < 0.5):
            break
    picture = source.picture
    if scale < 1:  # Editors average before they shrink.
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 / scale)
    moved = cv2.warpAffine(picture, matrix, (width, height), None, how, cv2.BORDER_REFLECT)
    return moved, mask


def half_turned(rng: Generator, low: float, high: float, angle: float) -> tuple[float, float]:
    """For half of the pastes a scale from `low` to `high` and an angle up to `angle`, else 1, 0."""
    turned = rng.random() < 0.5
    return (rng.uniform(low, high), rng.uniform(-angle, angle)) if turned else (1.0, 0.0)


def blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray, soft: float) -> np.ndarray:
    """Pastes `above` over `below`, uint8, its edge softened by a Gaussian of `soft` pixels."""
    weight = cv2.GaussianBlur(mask, (0, 0), soft).astype(np.float32) / 255
    mixed = below + weight[..., None] * (above.astype(np.float32) - below)
    return np.rint(mixed).astype(np.uint8)


def outline_step(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> float:
    """The mean step along the mask's outline when `above` is laid over `below`, as they measure."""
    outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return float(np.abs(above[outline].astype(np.float32) - below[outline]).mean())


def splice(rng: Generator, target: Source, donor: Source) -> Pasted:
    """Pastes a region of another camera's picture: (uint8 [H, W, 3], mask uint8 [H, W])."""
    below = target.picture
    above, mask = draw_paste(rng, donor, target, lambda: half_turned(rng, 0.75, 1.25, 25))
    if rng.random() < 0.5:  # The region's mean colour moves towards that of the picture.
        shift = rng.uniform(0.3, 0.9) * (below.mean((0, 1)) - above[mask > 0].mean(0))
        above = np.clip(np.rint(above + shift.astype(np.float32)), 0, 255).astype(np.uint8)
    return blend(below, above, mask, rng.uniform(*SOFT)), mask


def copy_move(rng: Generator, target: Source) -> Pasted:
    """Copies a region within the picture, scaled, turned and blended; the mask is the copy."""

    def turn() -> tuple[float, float]:
        limits = (1.3, 2.2) if rng.random() < 0.7 else (0.5, 0.75)
        return rng.uniform(*limits), rng.uniform(-30, 30)

    above, mask = draw_paste(rng, target, target, turn)
    return blend(target.picture, above, mask, rng.uniform(*SOFT)), mask


def remove(rng: Generator, target: Source) -> Pasted:
    """Removes a region by inpainting from around it; the mask is what was painted over."""
    mask = cv2.dilate(choose_region(rng, target, objects=0.8), np.ones((3, 3), np.uint8))
    method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
    return cv2.inpaint(target.picture, mask, 3, method), mask
