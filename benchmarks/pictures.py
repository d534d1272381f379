"""Makes a small data set of smooth random pictures with masks, for benchmarks without data."""

from pathlib import Path

import cv2
import numpy as np

_SIZE = (256, 384)  # Rows and columns of most of CASIA v2.0.


def make_pictures(root: Path, count: int) -> Path:
    """Writes `count` pictures, half of them tampered, as Au/, Tp/ and Gt/ below `root`."""
    rng = np.random.default_rng(0)
    for name in ("Au", "Tp", "Gt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, _SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        tampered = number % 2 == 1
        if tampered:
            mask = np.zeros(_SIZE, np.uint8)
            mask[64:160, 96:240] = 255
            picture[mask > 0] = 255 - picture[mask > 0]
            cv2.imwrite(str(root / "Gt" / f"{number:05d}_gt.png"), mask)
        cv2.imwrite(str(root / ("Tp" if tampered else "Au") / f"{number:05d}.jpg"), picture)
    return root
