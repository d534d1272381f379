"""The floor that knows edges and has seen masks: logistic regression on edge statistics.

python -m benchmarks.edge_floor --train DIR --test NAME=DIR --output MAPS
sapl evaluate --checkpoint DIR --dataset NAME=DIR --maps edge-statistics=MAPS

--train and --test are data sets with masks, as `python -m data_pipelines.generate --photographs`
writes them. Each cell of 16 pixels has four numbers: the density of Canny edges, and the mean, the
maximum and the standard deviation of Sobel's gradient. A heat map is the probability of lying in
the mask with both classes weighted alike, a picture's score the mean of the tenth of its cells
that look most tampered. MAPS gets a folder per data set, an NPZ file per picture: map and score.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.learnable import SHARE
from benchmarks.probe import CELL
from data_pipelines.images import read_image
from data_pipelines.listing import TAMPERED, Sample
from data_pipelines.masks import load_mask
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.readers import parse_dataset, read_dataset
from data_pipelines.soft_edges import canny_edges
from sapl_jax.errors import Parser, UserError, check_numbers, run_main


def blocks(values: np.ndarray) -> np.ndarray:
    """[H,W] by cells, float32 [h,w,256]; sides are filled up by repeating the last pixel."""
    rows, columns = (-side % CELL for side in values.shape)
    filled = np.pad(values.astype(np.float32), ((0, rows), (0, columns)), mode="edge")
    grid = filled.reshape(len(filled) // CELL, CELL, -1, CELL).swapaxes(1, 2)
    return grid.reshape(*grid.shape[:2], -1)


def statistics(picture: np.ndarray) -> np.ndarray:
    """The four numbers of each cell of a picture, uint8 RGB [H,W,3]: float32 [h,w,4]."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    slopes = (cv2.Sobel(grey, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    gradient = np.log1p(blocks(cv2.magnitude(*slopes)))
    density = blocks(canny_edges(picture)).mean(-1)
    return np.stack([density, gradient.mean(-1), gradient.max(-1), gradient.std(-1)], axis=-1)


def fit(samples: list[Sample]) -> LogisticRegression:
    """The regression of cells in the mask against all others, of pictures with and without."""
    known, inside = [], []
    for sample in ProgressBar(samples, desc="fitting"):
        picture = read_image(sample.image)
        mask = np.zeros(picture.shape[:2], np.uint8)
        if sample.label == TAMPERED:
            if sample.mask is None:
                continue
            mask = load_mask(sample.mask, picture, sample.mask_style).grey
        known.append(statistics(picture).reshape(-1, 4))
        inside.append((blocks(mask > 127).mean(-1) > 0.5).ravel())
    if not 0 < sum(part.sum() for part in inside) < sum(map(len, inside)):
        raise UserError("no cell, or every cell, lies in a mask: give more --pictures, with masks")
    model = LogisticRegression(class_weight="balanced")
    return model.fit(np.concatenate(known), np.concatenate(inside))


def analyse(model: LogisticRegression, picture: np.ndarray) -> tuple[np.ndarray, float]:
    """Heat map float32 [H,W] in [0,1] and score of a picture, uint8 RGB [H,W,3]."""
    found = statistics(picture)
    cells = model.predict_proba(found.reshape(-1, 4))[:, 1].astype(np.float32)
    largest = np.sort(cells)[-max(1, len(cells) // SHARE) :]
    size = found.shape[1] * CELL, found.shape[0] * CELL
    heat_map = cv2.resize(cells.reshape(found.shape[:2]), size, interpolation=cv2.INTER_LINEAR)
    height, width = picture.shape[:2]
    return np.clip(heat_map[:height, :width], 0, 1), float(largest.mean())


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("python -m benchmarks.edge_floor", __doc__)
    add = parser.add_argument
    add("--train", type=Path, required=True, help="Au/, Tp/ and Gt/ to fit on")
    add("--test", action="append", required=True, metavar="NAME=PATH", help="as in sapl evaluate")
    add("--output", type=Path, required=True, help="folder for the maps")
    add("--pictures", type=int, default=1000, help="pictures to fit on, at most")
    add("--seed", type=int, default=0, help="which pictures these are")
    arguments = parser.parse_args()
    check_numbers(arguments, pictures=(2, 10**9))
    return arguments


def main() -> None:
    """The command."""
    flags = parse_arguments()
    tests = {}
    for text in flags.test:
        name, layout, path = parse_dataset(text, "--test")
        tests[name] = read_dataset(layout, path).samples
    train = read_dataset("folder", flags.train).samples
    order = np.random.default_rng(flags.seed).permutation(len(train))
    model = fit([train[n] for n in order[: flags.pictures]])
    print("coefficients:", ", ".join(f"{c:.3g}" for c in (*model.coef_[0], *model.intercept_)))
    for name, samples in tests.items():
        for sample in ProgressBar(samples, desc=name):
            heat_map, score = analyse(model, read_image(sample.image))
            file = flags.output / name / f"{sample.name}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, map=heat_map, score=score)
    print(f"maps are in {flags.output}: sapl evaluate --maps edge-statistics={flags.output}")


if __name__ == "__main__":
    run_main(main)
