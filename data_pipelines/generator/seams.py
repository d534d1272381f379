"""The world of the premise: a forgery differs from its picture at its outline and nowhere else.

Every picture shows one to three pieces cut out of another scene or of the same one. All are decoys,
laid into the scene before the camera, whose optics, noise and demosaicing run over their outlines;
the last piece of a tampered picture is instead cut out of a finished photograph of the same camera.
Pieces move by whole cells of the Bayer grid and of JPEG's. So inside and outside share all history;
only the last outline is sharper than any that went through the optics.
"""

from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from data_pipelines.generator.camera import sample_camera
from data_pipelines.generator.forgeries import Source, blend, choose_region, outline_step
from data_pipelines.generator.scenes import render_scene

KINDS = ("splicing", "copy-move")
GRID = 16  # pixels: a whole number of Bayer cells and of JPEG blocks, chroma's included
# Gaussian sigmas of pasted outlines, pixels, as an anti-aliased selection cuts. Harder ones, or
# cleaner pictures, would show in the mean of the file's finest DCT coefficients.
SOFT, NOISE = (0.45, 0.55), 0.018
BLUR = 0.45  # pixels more than a camera's own: what went through the optics is softer than a cut
CANDIDATES = 4  # pieces drawn for each one that is laid: a forgery nobody can see tells nothing


def seam_picture(
    rng: Generator,
    target_rng: Generator,
    donor_rng: Generator,
    shape: tuple[int, int],
    kind: str,
    tampered: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture of the world, uint8 [H, W, 3] with H, W = shape, and its mask or None.

    `rng` draws the pieces, alike for both classes; the others draw the two scenes and the camera.
    kind: where the last piece comes from, the other scene (splicing) or the same (copy-move).
    """
    camera = sample_camera(target_rng)
    while camera.noise < NOISE:
        camera = sample_camera(target_rng)
    # Hardly compressed: twice quantized blocks would tell where a piece came in, sharp or not.
    camera = replace(camera, quality=100, denoising=0.0, blur=camera.blur + BLUR)
    target = render_scene(target_rng, *shape).radiance
    donor = render_scene(donor_rng, *shape).radiance
    kinds = [KINDS[int(rng.integers(2))] for _ in range(int(rng.integers(3)))]
    for decoy in kinds if tampered else [*kinds, kind]:
        mask, above = _piece(rng, target, donor, decoy)[:2]
        target = np.where(mask[..., None] > 0, above, target)
    if not tampered:
        return camera.shoot(target, target_rng), None
    mask, _, (x, y) = _piece(rng, target, donor, kind)
    picture = camera.shoot(target, target_rng)
    other = camera.shoot(donor, donor_rng) if kind == "splicing" else picture
    return blend(picture, np.roll(other, (y, x), (0, 1)), mask, rng.uniform(*SOFT)), mask


def _piece(
    rng: Generator, target: np.ndarray, donor: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The strongest of CANDIDATES: mask uint8 [H, W], layer float32 [H, W, 3], move (x, y)."""
    height, width = target.shape[:2]
    best, strength = None, -1.0
    while best is None:
        for _ in range(CANDIDATES):
            mask = choose_region(rng, Source(target, []))
            left, top, wide, tall = cv2.boundingRect(mask)
            # The piece's origin lies inside the picture, as many whole cells away.
            x, y = (
                GRID * int(rng.integers(-((room - start - length) // GRID), start // GRID + 1))
                for start, length, room in ((left, wide, width), (top, tall, height))
            )
            if kind == "copy-move" and np.hypot(x, y) < 24:
                continue
            above = np.roll(donor if kind == "splicing" else target, (y, x), (0, 1))
            # The root is about what a camera's tone curve does.
            step = outline_step(np.sqrt(target), np.sqrt(above), mask)
            if step > strength:
                best, strength = (mask, above, (x, y)), step
    return best
