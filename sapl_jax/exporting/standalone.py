"""Scores pictures and writes their heat maps with this export alone.

    python run.py PICTURE...

Needs numpy and opencv-python-headless, and jax (StableHLO) or onnxruntime (ONNX); nothing of the
package that made the export. The pieces are plain functions: copy what you need.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

# An export has the sources of these in the imports' place.
from data_pipelines.preprocess import Geometry, preprocess
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax.models.localization import heat_map_of_picture, stretched

Network = Callable[..., Any]


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
        description = json.loads((folder / "export.json").read_text())
        opened = onnx_network if description["kind"] == "onnx" else stablehlo_network
        self.network = opened(folder)
        options = description["preprocessing"]
        self.geometry = Geometry(options["size"], options["patch"])
        self.edge_options = EdgeOptions.from_config(SimpleNamespace(**options))
        heat_map = description["heat_map"]
        sigma = 0.0 if heat_map["colours"] else heat_map["sigma"]  # Else the network smooths.
        self.smoothing = {"canvas": options["canvas"], "sigma": sigma}
        self.level = heat_map["normalize"]
        # Where it is of scores from tiles it says nothing of those of a picture in one piece.
        source = {} if heat_map.get("tile") else description["source"]
        self.calibration = source.get("calibration")

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
        prepared = [preprocess(rgb, self.geometry, self.edge_options) for rgb in pictures]
        scores, maps = self.network(*(np.stack([item[i] for item in prepared]) for i in range(3)))
        results = []
        for score, patch_map, item, rgb in zip(scores, maps, prepared, pictures, strict=True):
            sizes: dict[str, Any] = {"resized": item.resized, "original": rgb.shape[:2]}
            heat_map = heat_map_of_picture(
                np.asarray(patch_map), item.valid, **sizes, **self.smoothing
            )
            results.append((float(score), stretched(heat_map, self.level)))
        return results


def main() -> int:
    """Analyses the pictures named on the command line; 1 if one of them could not be."""
    if len(sys.argv) < 2:
        sys.exit("usage: python run.py PICTURE...")
    model = Model(Path(__file__).parent)
    written: list[str] = []
    for name in sys.argv[1:]:
        bgr = cv2.imread(name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None:
            print(f"{name}: not a picture that OpenCV reads", file=sys.stderr)
            continue
        score, heat_map = model.analyse([cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)])[0]
        output = f"{Path(name).stem}_heatmap.png"
        while output in written:  # a picture of another folder or format
            output = output.replace("_heatmap.png", f"_{len(written)}_heatmap.png")
        if not cv2.imwrite(output, np.rint(heat_map * 255).astype(np.uint8)):
            sys.exit(f"{output} cannot be written")
        written.append(output)
        print(f"{name}: {model.verdict(score)}, score {score:.3f}, heat map in {output}")
    return int(len(written) < len(sys.argv) - 1)


if __name__ == "__main__":
    sys.exit(main())
