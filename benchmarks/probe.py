"""What a frozen backbone sees of forgeries: linear probes *with masks*, an upper mark for SAPL.

python -m benchmarks.probe --clip DIR --photographs DIR --train DIR --test NAME=DIR

--train and --test are data sets with masks, such as `python -m data_pipelines.generate
--photographs DIR --split train` (and `test`) writes. A probe is a ridge regression on the features
of cells of 16 pixels: all blocks' patches after the last layer norm, mean and maximum over a cell,
as they are and less the median of their window. Edge statistics of the same cells stand beside.

Columns: AUC over cells of photographs of the test split, every other one of which was resampled,
saved twice or blurred (all were saved in the end); then, per data set, the seam and the mask (mean
over tampered pictures of the AUC over their cells) and the picture (I-AUC of the mean of the tenth
of its cells that look most like a seam).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.edge_statistics import local_statistics
from data_pipelines.generator.photographs import open_library
from data_pipelines.images import read_image, resave
from data_pipelines.listing import TAMPERED, Sample
from data_pipelines.masks import load_mask
from data_pipelines.preprocess import Geometry, pad, resize, valid_patches
from data_pipelines.readers import parse_dataset, read_dataset
from data_pipelines.soft_edges import soft_edge_map
from sapl_jax.clip.loading import load_clip
from sapl_jax.errors import Parser, UserError, run_main
from sapl_jax.evaluation.results import aligned
from sapl_jax.metrics import roc_auc
from sapl_jax.models.sapl import normalize_pixels

CELL, BAND = 16, 3  # pixels: side of a cell, half width of a seam
TRACES = ("resampling", "double JPEG", "blur")
_RIDGE = 1e-3  # of the features' mean squares
# Pixels uint8 [S,S,3] -> what is known of them at [g,g,F] places.
Features = Callable[[np.ndarray], np.ndarray]


class Window(NamedTuple):
    """A square of a picture, uint8 [S,S,3], and of its cells, bool [G,G]: valid, seam, mask."""

    pixels: np.ndarray
    valid: np.ndarray
    seam: np.ndarray
    mask: np.ndarray


class Ridge:
    """Least squares with a penalty, from sums alone: no set of features is ever held."""

    def __init__(self) -> None:
        self._sums: list[np.ndarray] = []

    def add(self, features: np.ndarray, targets: np.ndarray) -> None:
        """Takes features [N,F] and targets [N,K] in."""
        x = np.c_[features, np.ones(len(features), np.float32)]
        sums = [(x.T @ x).astype(np.float64), (x.T @ targets).astype(np.float64)]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums

    def weights(self) -> np.ndarray:
        """The solution, float64 [F+1,K], constants last."""
        gram, moments = self._sums
        penalty = _RIDGE * np.diag(gram) + 1e-9
        penalty[-1] = 0
        return np.linalg.solve(gram + np.diag(penalty), moments)


def predict(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Scores [...,K] of features [...,F]."""
    return features @ weights[:-1] + weights[-1]


def backbone(folder: Path) -> Features:
    """The patches of all blocks of the CLIP in a folder."""
    clip = load_clip(str(folder))
    vision = clip.config.vision
    if CELL % vision.patch_size:
        raise UserError(
            f"--clip {folder}: patches of {vision.patch_size} pixels; expected 4, 8, 16"
        )
    taps = tuple(range(1, vision.num_hidden_layers + 1))

    @jax.jit
    def patches(pixels: jax.Array) -> jax.Array:
        found = clip.vision(normalize_pixels(pixels[None]), taps).taps[:, 0, 1:]
        return jnp.concatenate(list(clip.vision.post_norm(found)), axis=-1)

    def features(pixels: np.ndarray) -> np.ndarray:
        grid = pixels.shape[0] // vision.patch_size
        return np.asarray(patches(jnp.asarray(pixels))).reshape(grid, grid, -1)

    return features


def edge_statistics(pixels: np.ndarray) -> np.ndarray:
    """Local variance, gradient, skewness, kurtosis and soft edges, and their squares."""
    variance, gradient, skewness, kurtosis = local_statistics(pixels)
    maps = [np.log1p(variance), np.log1p(gradient), skewness, np.clip(kurtosis, -3, 30)]
    known = np.nan_to_num(np.stack([*maps, soft_edge_map(pixels)], axis=-1), nan=0.0)
    return np.concatenate([known, known**2], axis=-1).astype(np.float32)


def cells(values: np.ndarray, grid: int) -> np.ndarray:
    """Mean and maximum of [g,g,F] over grid x grid cells; the same less the medians besides."""
    side = len(values) // grid
    blocks = values.reshape(grid, side, grid, side, -1)
    pooled = np.concatenate([blocks.mean((1, 3)), blocks.max((1, 3))], axis=-1)
    return np.concatenate([pooled, pooled - np.median(pooled, axis=(0, 1))], axis=-1)


def outline_band(inside: np.ndarray, width: int) -> np.ndarray:
    """The band `width` pixels wide, odd, along an outline; both uint8 [H,W], 0 or 1."""
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return cv2.dilate(inside, near) - cv2.erode(inside, near)


def windows(sample: Sample, size: int) -> Iterator[Window]:
    """Squares of `size` pixels, side by side, of a picture of at most twice that."""
    picture = read_image(sample.image)
    mask: np.ndarray = np.zeros(picture.shape[:2], np.uint8)
    if sample.label == TAMPERED and sample.mask is not None:
        mask = load_mask(sample.mask, picture, sample.mask_style).grey
    if max(picture.shape[:2]) > 2 * size:
        picture = resize(picture, Geometry(2 * size, CELL))
        mask = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    inside = (mask > 127).astype(np.uint8)
    seam = outline_band(inside, 2 * BAND + 1)
    geometry = Geometry(size, CELL)
    for y in range(0, picture.shape[0], size):
        for x in range(0, picture.shape[1], size):
            square = np.s_[y : y + size, x : x + size]
            shape = picture[square].shape[:2]
            shares = []
            for area in (seam, inside):
                whole = np.zeros((size, size), np.float32)
                whole[: shape[0], : shape[1]] = area[square]
                side = size // CELL
                shares.append(whole.reshape(side, CELL, side, CELL).mean((1, 3)))
            valid = valid_patches(shape[0], shape[1], geometry)
            pixels = pad(picture[square], geometry)
            # A seam that only grazes a cell is hard to see in it: a cell's width of it counts.
            yield Window(pixels, valid, shares[0] > BAND / CELL, shares[1] > 0.5)


def probe_forgeries(
    features: Features, train: Sequence[Sample], tests: Sequence[Sequence[Sample]], size: int
) -> list[float | None]:
    """Fits seam and mask on `train`; per test set the AUCs of seam, mask and picture."""
    grid, ridge = size // CELL, Ridge()
    for sample in train:
        for window in windows(sample, size):
            known = cells(features(window.pixels), grid)[window.valid]
            targets = np.stack([window.seam, window.mask], axis=-1)[window.valid]
            ridge.add(known, targets.astype(np.float32))
    weights = ridge.weights()
    found: list[float | None] = []
    for test in tests:
        aucs: list[list[float | None]] = []
        labels, scores = [], []
        for sample in test:
            parts = list(windows(sample, size))
            valid = np.stack([part.valid for part in parts])
            scored = np.stack([predict(weights, cells(features(p.pixels), grid)) for p in parts])
            seams = np.sort(scored[valid][:, 0])
            labels.append(sample.label == TAMPERED)
            scores.append(float(seams[-max(1, len(seams) // 10) :].mean()))
            if sample.label == TAMPERED and sample.mask is not None:
                truth = [np.stack([p.seam for p in parts]), np.stack([p.mask for p in parts])]
                aucs.append([roc_auc(t[valid], scored[valid][:, k]) for k, t in enumerate(truth)])
        for k in (0, 1):
            known = [auc[k] for auc in aucs if auc[k] is not None]
            found.append(float(np.mean(known)) if known else None)
        found.append(roc_auc(np.array(labels), np.array(scores)))
    return found


def traced(rng: np.random.Generator, picture: np.ndarray, size: int, trace: str) -> np.ndarray:
    """A random square of a photograph, shrunk to `size`, with a trace or "", saved as JPEG."""
    side = min(picture.shape[:2])
    y, x = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
    square = picture[y : y + side, x : x + side]
    square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    if trace == "resampling":
        cut = round(size / rng.uniform(1.1, 2))
        square = cv2.resize(square[:cut, :cut], (size, size), interpolation=cv2.INTER_CUBIC)
    elif trace == "double JPEG":
        square = resave(square, int(rng.integers(50, 91)), "4:4:4")
    elif trace == "blur":
        square = cv2.GaussianBlur(square, (0, 0), rng.uniform(0.5, 1.5))
    return resave(square, int(rng.integers(75, 99)), ("4:4:4", "4:2:0")[int(rng.integers(2))])


def probe_traces(features: Features, photographs: str, size: int, seed: int) -> list[float | None]:
    """AUC over cells, per trace, on photographs of the test split."""
    found: list[float | None] = []
    grid = size // CELL
    for trace in TRACES:
        rng, ridge = np.random.default_rng(seed), Ridge()
        labels: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        for split in ("train", "test"):
            weights = ridge.weights() if split == "test" else np.empty(0)
            for path in open_library(photographs, split=split).pictures:
                for label, applied in enumerate(("", trace)):
                    square = traced(rng, read_image(path), size, applied)
                    known = cells(features(square), grid).reshape(grid * grid, -1)
                    truth = np.full((len(known), 1), label, np.float32)
                    if split == "train":
                        ridge.add(known, truth)
                    else:
                        labels.append(truth[:, 0])
                        scores.append(predict(weights, known)[:, 0])
        found.append(roc_auc(np.concatenate(labels), np.concatenate(scores)))
    return found


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("python -m benchmarks.probe", __doc__)
    add = parser.add_argument
    add("--clip", type=Path, action="append", default=[], help="folder of a backbone; repeatable")
    add("--photographs", required=True, help="folder of real photographs, for the traces")
    add("--train", type=Path, required=True, help="Au/, Tp/ and Gt/ to fit on")
    add("--test", action="append", required=True, metavar="NAME=PATH", help="as in sapl evaluate")
    add("--pictures", type=int, default=600, help="pictures to fit on, at most")
    add("--size", type=int, default=192, help="side of a window, a multiple of 16")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """The command: prints one table."""
    flags = parse_arguments()
    if flags.size < CELL or flags.size % CELL:
        raise UserError(f"--size {flags.size}: expected a multiple of {CELL}")
    train = list(read_dataset("folder", flags.train).samples)
    order = np.random.default_rng(flags.seed).permutation(len(train))
    train = [train[n] for n in order[: flags.pictures]]
    tests = {}
    for text in flags.test:
        name, layout, path = parse_dataset(text, "--test")
        tests[name] = read_dataset(layout, path).samples
    header = ["features", *TRACES]
    for name, samples in tests.items():
        masks = sum(s.label == TAMPERED and s.mask is not None for s in samples)
        print(f"{name}: {len(samples)} pictures, {masks} tampered ones with a mask")
        header += [f"{name} {what}" for what in ("seam", "mask", "I-AUC")]
    rows = [header]
    sources = {"edge statistics": edge_statistics} | {str(c): backbone(c) for c in flags.clip}
    for name, features in sources.items():
        found = probe_traces(features, flags.photographs, flags.size, flags.seed)
        found += probe_forgeries(features, train, list(tests.values()), flags.size)
        rows.append([name, *("-" if value is None else f"{value:.3f}" for value in found)])
        print("\n".join(aligned(rows, names=1)), flush=True)


if __name__ == "__main__":
    run_main(main)
