"""Small pictures and a detector simple enough to know its results by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np


class RedAnalysis(NamedTuple):
    score: float
    heat_map: np.ndarray


class RedDetector:
    """Calls red pixels tampered: the map is the red channel, the score its maximum."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def analyse(self, images: Sequence[np.ndarray]) -> list[RedAnalysis]:
        self.batches.append(len(images))
        maps = [image[..., 0].astype(np.float32) / 255 for image in images]
        return [RedAnalysis(float(heat_map.max()), heat_map) for heat_map in maps]


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def write_grey(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), grey)


def picture(red_columns: int, height: int = 20, width: int = 40) -> np.ndarray:
    """Blue-green, with the first columns red."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 1:] = 90
    rgb[:, :red_columns, 0] = 230
    return rgb
