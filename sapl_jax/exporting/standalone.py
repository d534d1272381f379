"""Scores pictures and writes their heat maps with this export alone.

    python run.py PICTURE...

Needs numpy and opencv-python-headless, and jax (StableHLO) or onnxruntime (ONNX); nothing of the
package that made the export. The pieces are plain functions: copy what you need.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Size = tuple[int, int]  # height, width
Prepared = tuple[np.ndarray, np.ndarray, np.ndarray, Size]
Network = Callable[..., Any]


def preprocess(rgb: np.ndarray, options: dict) -> Prepared:
    """Picture uint8 [H,W,3] -> canvas uint8 [C,C,3], edge map [g,g], valid [g,g], (h, w)."""
    size, patch, canvas = options["size"], options["patch"], options["canvas"]
    height, width = rgb.shape[:2]
    longer = max(height, width)
    if longer != size:
        height, width = (max(1, round(side * size / longer)) for side in (height, width))
        method = cv2.INTER_AREA if longer > size else cv2.INTER_CUBIC
        rgb = cv2.resize(rgb, (width, height), interpolation=method)
    image = np.empty((canvas, canvas, 3), np.uint8)
    image[:] = options["padding"]
    image[:height, :width] = rgb
    grid = canvas // patch
    starts = np.arange(grid) * patch
    covered = np.outer(np.clip(height - starts, 0, patch), np.clip(width - starts, 0, patch))
    valid = 2 * covered >= patch**2
    full = np.zeros((canvas, canvas), np.float32)
    full[:height, :width] = soft_edges(rgb, options)
    sums = full.reshape(grid, patch, grid, patch).sum(axis=(1, 3))
    edge_map = sums / np.maximum(covered, 1).astype(np.float32) * valid
    return image, edge_map, valid, (height, width)


def soft_edges(rgb: np.ndarray, options: dict) -> np.ndarray:
    """exp(-alpha * distance to the nearest Canny edge), float32 [h,w]; 0 where there is no edge."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    edges = cv2.Canny(grey, options["canny_low"], options["canny_high"], L2gradient=True) > 0
    if not edges.any():
        return np.zeros(edges.shape, np.float32)
    away = np.logical_not(edges).astype(np.uint8)
    rough = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = np.sqrt(np.rint(np.square(rough, dtype=np.float64))).astype(np.float32)
    alpha = options["edge_kappa"] * edges.mean()
    alpha = float(np.clip(alpha, options["edge_alpha_min"], options["edge_alpha_max"]))
    return np.exp(-alpha * distance, dtype=np.float32)


def full_size(
    patch_map: np.ndarray, prepared: Prepared, original: Size, description: dict
) -> np.ndarray:
    """Patch heat map [g,g] -> heat map at the picture's own size, float32 [H,W]."""
    _, _, valid, resized = prepared
    canvas, sigma = description["preprocessing"]["canvas"], description["heat_map"]["sigma"]
    rows, columns = (max(1, int(valid.any(axis=axis).sum())) for axis in (1, 0))
    grid = len(patch_map)
    inside = patch_map[:rows, :columns].astype(np.float32)
    full: np.ndarray = np.pad(inside, ((0, grid - rows), (0, grid - columns)), mode="edge")
    full = cv2.resize(full, (canvas, canvas), interpolation=cv2.INTER_LINEAR)
    picture: np.ndarray = np.ascontiguousarray(full[: resized[0], : resized[1]])
    if sigma > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    shrinks = original[0] < resized[0] or original[1] < resized[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.clip(cv2.resize(picture, (original[1], original[0]), interpolation=method), 0, 1)


def stablehlo_network(folder: Path) -> Network:
    """The network in model.stablehlo: (image, edge_map, valid) batches -> (scores, patch maps)."""
    import jax
    from jax import export

    exported = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    with np.load(folder / "weights.npz") as stored:
        weights = jax.device_put({name: stored[name] for name in stored.files})
    call = jax.jit(exported.call)
    return lambda *batch: jax.device_get(call(weights, *batch))


def onnx_network(folder: Path) -> Network:
    """The network in model.onnx: (image, edge_map, valid) batches -> (scores, patch maps)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=onnxruntime.get_available_providers()
    )
    names = [entry.name for entry in session.get_inputs()]
    return lambda *batch: session.run(None, dict(zip(names, batch, strict=True)))


class Model:
    """An export folder, ready to analyse pictures."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.description = json.loads((folder / "export.json").read_text())
        opened = onnx_network if self.description["kind"] == "onnx" else stablehlo_network
        self.network = opened(folder)
        self.calibration = self.description["source"].get("calibration")

    def verdict(self, score: float) -> str:
        """`tampered` or `authentic`; with a calibration, whose rule it is, or `inconclusive`."""
        if self.calibration is None:
            return "tampered" if score > 0.5 else "authentic"
        if score > self.calibration["tampered_above"]:
            return "tampered"
        low = self.calibration["authentic_to"]
        return "authentic" if low is not None and score < low else "inconclusive"

    def analyse(self, pictures: Sequence[np.ndarray]) -> list[tuple[float, np.ndarray]]:
        """A list of uint8 RGB [H,W,3] of any sizes -> a list of (score, heat map [H,W])."""
        prepared = [preprocess(rgb, self.description["preprocessing"]) for rgb in pictures]
        scores, maps = self.network(*(np.stack([item[i] for item in prepared]) for i in range(3)))
        results = []
        for score, patch_map, item, rgb in zip(scores, maps, prepared, pictures, strict=True):
            whole = full_size(np.asarray(patch_map), item, rgb.shape[:2], self.description)
            results.append((float(score), whole))
        return results


def main() -> None:
    """Analyses the pictures named on the command line."""
    model = Model(Path(__file__).parent)
    if len(sys.argv) < 2:
        sys.exit("usage: python run.py PICTURE...")
    for name in sys.argv[1:]:
        bgr = cv2.imread(name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None:
            print(f"{name}: not a picture that OpenCV reads", file=sys.stderr)
            continue
        score, heat_map = model.analyse([cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)])[0]
        output = f"{Path(name).stem}_heatmap.png"
        cv2.imwrite(output, np.rint(heat_map * 255).astype(np.uint8))
        what = "tampered" if model.calibration is None else f"{model.verdict(score)}, score"
        print(f"{name}: {what} {score:.3f}, heat map in {output}")


if __name__ == "__main__":
    main()
