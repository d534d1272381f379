"""A small data set on disk."""

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.red_pictures import RedDetector, picture, write_grey, write_rgb


@pytest.fixture
def detector() -> RedDetector:
    return RedDetector()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two authentic and three tampered pictures; masks of 10 columns for two of the three.

    A red detector finds half of `a`, all of `b`, and has no mask for `c`.
    """
    root = tmp_path / "set"
    for name in ("x", "y"):
        write_rgb(root / "Au" / f"{name}.png", picture(0))
    mask = np.zeros((20, 40), np.uint8)
    mask[:, :10] = 255
    for name, columns in (("a", 5), ("b", 10), ("c", 7)):
        write_rgb(root / "Tp" / f"{name}.png", picture(columns))
    for name in ("a", "b"):
        write_grey(root / "Gt" / f"{name}_gt.png", mask)
    return root
