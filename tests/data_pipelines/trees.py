"""Writes tiny data sets of an exact layout: every picture is a few pixels of the wanted format."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16)) -> Path:
    """Writes a colour picture of random pixels, (height, width), in the format of its suffix."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_mask(path: Path, grey: np.ndarray) -> Path:
    """Writes a mask, uint8 [H, W] or RGB [H, W, 3], in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), grey if grey.ndim == 2 else grey[..., ::-1])
    return path


def write_tree(root: Path, names: Iterable[str]) -> Path:
    """Writes a different picture at each of the names below root."""
    for seed, name in enumerate(names):
        write_picture(root / name, seed)
    return root
