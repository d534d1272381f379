"""Makes a set of hard copy-move: python -m benchmarks.hard_copy_move OUT --images 3000 --seed 1.

A world of the paper's premise (its Figure 2): generated authentic pictures, in every other one a
shape of 3 to 20 % filled from the same picture, moved by 24 pixels or more; of twelve shapes and
moves the one with the strongest step at its outline. No blending, and one more JPEG save for both
classes, so inside and outside share all history. `generate`'s worlds have forgeries of other kinds.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.generator.examples import make_example, stream
from data_pipelines.generator.forgeries import outline_step
from data_pipelines.generator.scenes import blob
from data_pipelines.images import decode_image, encode_jpeg
from data_pipelines.progress_bars import ProgressBar

_CANDIDATES, _LEAST_MOVE = 12, 24  # the latter in pixels
_SHARE = (0.03, 0.2)  # of the picture
_FORGERY, _SAVE = 77, 78  # streams of random numbers, which `make_example` has none of


def forge(rng: np.random.Generator, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The forged picture, uint8 [H,W,3], and its mask, uint8 [H,W] of 0 and 255."""
    height, width = rgb.shape[:2]
    found: list[tuple[float, np.ndarray, np.ndarray]] = []
    while not found:
        for _ in range(_CANDIDATES):
            area = np.exp(rng.uniform(*np.log(_SHARE))) * height * width
            centre = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
            corners = np.rint(blob(rng, centre, np.sqrt(area / np.pi))).astype(np.int32)
            mask = cv2.fillPoly(np.zeros((height, width), np.uint8), [corners], 255)
            right = int(rng.integers(-width // 2, width // 2))
            down = int(rng.integers(-height // 2, height // 2))
            x, y, w, h = cv2.boundingRect(mask)
            inside = 0 <= x - right <= width - w and 0 <= y - down <= height - h
            share = (mask > 0).mean()
            if inside and np.hypot(right, down) >= _LEAST_MOVE and _SHARE[0] <= share <= _SHARE[1]:
                moved = np.roll(rgb, (down, right), (0, 1))
                found.append((outline_step(rgb, moved, mask), moved, mask))
    _, moved, mask = max(found, key=lambda one: one[0])
    return np.where(mask[..., None] > 0, moved, rgb), mask


def write(number: int, output: Path, seed: int, size: int) -> None:
    """Writes a picture, and for an odd number its mask."""
    cv2.setNumThreads(1)
    rgb = decode_image(make_example(seed, 2 * number, size).jpeg, "generated")
    name = f"Au/{number:06d}_authentic.jpg"
    if number % 2:
        rgb, mask = forge(stream(seed, number, _FORGERY), rgb)
        name = f"Tp/{number:06d}_copy-move.jpg"
        cv2.imwrite(str(output / f"Gt/{number:06d}_copy-move_gt.png"), mask)
    quality = int(stream(seed, number, _SAVE).integers(90, 99))
    (output / name).write_bytes(encode_jpeg(rgb, quality, "4:4:4"))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=192)
    args = parser.parse_args()
    for folder in ("Au", "Tp", "Gt"):
        (args.output / folder).mkdir(parents=True, exist_ok=True)
    one = partial(write, output=args.output, seed=args.seed, size=args.size)
    with ProcessPoolExecutor() as pool:
        made = pool.map(one, range(args.images), chunksize=8)
        list(ProgressBar(made, total=args.images, desc="generating", unit="picture"))


if __name__ == "__main__":
    main()
