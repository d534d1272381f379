"""Robustness sweeps as in the paper's Figure 8: JPEG compression, Gaussian blur and noise.

Pictures are perturbed at their own size, before the model resizes them. The levels are those of
IMDL-BenCo; every sweep starts at the clean picture. Noise depends on seed, sweep, level and
sample's name only, so a sweep gives the same numbers in any order and on any machine.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable

import cv2
import numpy as np

from data_pipelines.images import resave

_ROWS = 512  # rows of noise drawn at a time, so that a large picture needs little memory


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A kind of perturbation and its levels, mild to strong. unit: what a level is."""

    name: str
    title: str
    unit: str
    levels: tuple[int, ...]


_ALL = (
    Sweep("jpeg", "JPEG compression", "quality", (100, 90, 80, 70, 60, 50)),
    Sweep("blur", "Gaussian blur", "kernel width in pixels", (3, 7, 11, 15, 19, 23)),
    # IMDL-BenCo gives these numbers to Albumentations' var_limit: they are variances.
    Sweep("noise", "Gaussian noise", "variance", (3, 7, 11, 15, 19, 23)),
    Sweep("noise_sigma", "Gaussian noise", "sigma", (3, 7, 11, 15, 19, 23)),
)
SWEEPS = {sweep.name: sweep for sweep in _ALL}


def perturbation(sweep: Sweep, level: int, seed: int) -> Callable[[np.ndarray, str], np.ndarray]:
    """The function (picture uint8 RGB [H, W, 3], sample's name) -> perturbed picture."""

    def apply(image: np.ndarray, name: str) -> np.ndarray:
        if sweep.name == "jpeg":
            return resave(image, level, "4:2:0")
        if sweep.name == "blur":
            # Sigma follows from the kernel's width, as in IMDL-BenCo, by OpenCV's rule: 0.3 ((width
            # - 1) / 2 - 1) + 0.8, and tabulated kernels up to 7 pixels.
            return cv2.GaussianBlur(image, (level, level), 0)
        digest = hashlib.sha256(os.fsencode(f"{seed}/{sweep.name}/{level}/{name}")).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        sigma = float(level) if sweep.name == "noise_sigma" else float(np.sqrt(level))
        return noise(image, sigma, generator)

    return apply


def noise(image: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Adds independent Gaussian noise, sigma in grey levels, to every channel; rounds and clips."""
    noisy = np.empty_like(image)
    for start in range(0, image.shape[0], _ROWS):
        part = image[start : start + _ROWS]
        drawn = generator.standard_normal(part.shape, np.float32) * np.float32(sigma)
        noisy[start : start + _ROWS] = np.clip(np.rint(part + drawn), 0, 255)
    return noisy
