"""Writes small pictures and trees of them laid out as data sets, and says what a reader found."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.listing import Listing
from data_pipelines.preprocess import Geometry

SMALL = Geometry(size=64, patch=14)  # canvas 70, grid 5: neither side of the picture fits


def noise(seed: int, height: int = 48, width: int = 72) -> np.ndarray:
    """A picture with edges: coloured rectangles on noise; uint8 RGB [height, width, 3]."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    for _ in range(4):
        x, y = int(rng.integers(0, width - 10)), int(rng.integers(0, height - 10))
        colour = tuple(int(v) for v in rng.integers(80, 256, 3))
        cv2.rectangle(picture, (x, y), (x + 20, y + 16), colour, -1)
    return picture


def write_picture(path: Path, rgb: np.ndarray) -> Path:
    """Writes RGB (or grey) pixels in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rgb[..., ::-1] if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def write_random(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16)) -> Path:
    """Writes a colour picture of random pixels, (height, width)."""
    return write_picture(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def write_tree(root: Path, names: Iterable[str]) -> Path:
    """Writes a different picture at each of the names below root."""
    for seed, name in enumerate(names):
        write_random(root / name, seed)
    return root


def pairs(listing: Listing) -> dict[str, str | int | None]:
    """The mask of each picture, both below the root; without one 0 if it is authentic, or None."""
    return {
        sample.name: sample.mask.relative_to(listing.root).as_posix()
        if sample.mask
        else (None if sample.label else 0)
        for sample in listing.samples
    }


def make_casia(root: Path, authentic: int = 24, tampered: int = 16) -> Path:
    """A tree named as CASIA v2.0: jpg, bmp and tif, masks for half of the tampered pictures."""
    for n in range(authentic):
        suffix = ".bmp" if n % 5 == 0 else ".jpg"
        write_picture(root / "Au" / f"Au_ani_{n:05}{suffix}", noise(n, 40 + n, 72))
    for n in range(tampered):
        kind = f"Tp_S_NRN_S_N_ani{n:05}_ani{n:05}_{n:05}"
        write_picture(root / "Tp" / f"{kind}{'.tif' if n % 2 else '.jpg'}", noise(n, 72, 40 + n))
        if n % 2:
            write_picture(root / "Gt" / f"{kind}_gt.png", np.full((72, 40 + n), 255, np.uint8))
    return root
