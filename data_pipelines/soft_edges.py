"""The adaptive soft edge map, Eq. (1): how close each pixel is to an edge of the picture."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sapl_jax.errors import UserError


@dataclass(frozen=True)
class EdgeOptions:
    """Constants of the soft edge map; the paper gives the form only, so all values are ours.

    kappa: decay per share of edge pixels. The mean gap between edges is about 1 / (2 rho), so
        alpha = kappa * rho keeps the decay at mid-gap the same for busy and plain pictures.
    alpha_min, alpha_max: bounds of the decay, per pixel of distance.
    canny_low, canny_high: Canny's hysteresis thresholds on the L2 gradient.
    """

    kappa: float = 2.0
    alpha_min: float = 1 / 64
    alpha_max: float = 1 / 2
    canny_low: float = 100.0
    canny_high: float = 200.0

    def __post_init__(self) -> None:
        decays = self.kappa > 0 and 0 < self.alpha_min <= self.alpha_max
        if not (decays and 0 <= self.canny_low <= self.canny_high):
            raise UserError(
                f"edge options: found {self}; expected kappa > 0, 0 < alpha_min <= alpha_max and "
                "0 <= canny_low <= canny_high"
            )

    @classmethod
    def from_config(cls, image: Any) -> "EdgeOptions":
        """The options in the part `image` of a training configuration."""
        alphas = image.edge_alpha_min, image.edge_alpha_max
        return cls(image.edge_kappa, *alphas, image.canny_low, image.canny_high)


DEFAULT_OPTIONS = EdgeOptions()


def canny_edges(rgb: np.ndarray, options: EdgeOptions = DEFAULT_OPTIONS) -> np.ndarray:
    """Canny edges of a picture. rgb: uint8 [h, w, 3]; returns bool [h, w]."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.Canny(grey, options.canny_low, options.canny_high, L2gradient=True) > 0


def decay(edges: np.ndarray, options: EdgeOptions = DEFAULT_OPTIONS) -> float:
    """Decay per pixel: alpha(rho) = clip(kappa rho, alpha_min, alpha_max), rho = edge share."""
    return float(np.clip(options.kappa * edges.mean(), options.alpha_min, options.alpha_max))


def soft_edges_from(edges: np.ndarray, options: EdgeOptions = DEFAULT_OPTIONS) -> np.ndarray:
    """M = exp(-alpha(rho) * D), Eq. (1), D = Euclidean distance in pixels to the nearest edge.

    edges: bool [h, w]. Returns float32 [h, w] in [0, 1]: 1 on edges; all 0 where none exist.
    """
    if not edges.any():
        return np.zeros(edges.shape, np.float32)
    away = np.logical_not(edges).astype(np.uint8)
    # With one thread OpenCV would take Intel's, which is slower and off by 5e-4 at 900 pixels.
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    rough = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    cv2.ipp.setUseIPP(used)
    # OpenCV's last bit changes from call to call, but squared distances are whole numbers. Up to
    # 1000 pixels float32 squares them to less than a half, and its root of whole numbers is exact.
    exact = rough if max(rough.shape) <= 700 else rough.astype(np.float64)
    np.rint(np.square(exact, out=exact), out=exact)
    distance = np.sqrt(exact, out=exact).astype(np.float32, copy=False)
    distance *= -decay(edges, options)
    return np.exp(distance, out=distance)


def soft_edge_map(rgb: np.ndarray, options: EdgeOptions = DEFAULT_OPTIONS) -> np.ndarray:
    """Soft edge map of a picture, Eq. (1), float32 [h, w] in [0, 1].

    rgb: uint8 [h, w, 3], not padded: padding would add a false edge.
    """
    return soft_edges_from(canny_edges(rgb, options), options)
