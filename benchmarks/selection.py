"""How much of what HECL selects in tampered pictures lies on the seam, and what edges change in it.

python -m benchmarks.selection demo/ablation

Takes the finished rows of `./launch.sh ablation`, whose --output is given, and those of its
tampered test pictures that a row's weights call tampered: in training the others give nothing,
unless `hecl.givers` is changed. With the same weights each row's patches are selected three times,
as HECL would in training: with the pictures' own edges, without, and with another picture's. Beside
each stands the share of the K patches taken as manipulated edges that lie on the seam (mostly in a
band of 13 pixels along the outline), then that of those taken as authentic ones: the first should
be high, the second low. Patches taken by chance have the share of the first line. Mean and spread
over the seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.probe import outline_band
from benchmarks.seams import BAND, finished_runs
from configs import ablations
from data_pipelines.images import read_image
from data_pipelines.listing import TAMPERED
from data_pipelines.masks import load_mask
from data_pipelines.preprocess import Geometry, Preprocessed, preprocess
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax.demo.ablation import spread
from sapl_jax.errors import Parser, run_main
from sapl_jax.evaluation.results import aligned, number
from sapl_jax.inference.opening import load_model
from sapl_jax.models.hecl import select_patches
from sapl_jax.models.sapl import SAPL

BATCH = 25
EDGES = ("own", "none", "another's")


def seam_patches(mask: np.ndarray, item: Preprocessed, geometry: Geometry) -> np.ndarray:
    """Patches, bool [T], mostly in the band along the outline of a mask, uint8 [H,W] 0 to 255."""
    height, width = item.resized
    inside = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 127
    canvas = np.zeros((geometry.canvas, geometry.canvas), np.float32)
    canvas[:height, :width] = outline_band(inside.astype(np.uint8), BAND)
    grid = (geometry.grid, geometry.grid)
    share = cv2.resize(canvas, grid, interpolation=cv2.INTER_AREA)
    return (share > 0.5).ravel() & item.valid.ravel()


def shares(
    similarity: np.ndarray,
    scale: float,
    edge_map: np.ndarray,
    valid: np.ndarray,
    seam: np.ndarray,
    top_k: int,
) -> dict[str, float]:
    """Shares on the seam of what is selected, by edges and class, over all taps and pictures.

    Args: similarity [L,B,T,2]; edge_map [B,T]; valid, seam [B,T] bool; `top_k` as in
        `select_patches`. Another picture's edges are those of the next.
    """
    found = {}
    for name in EDGES:
        edges = np.roll(edge_map, 1, axis=0) * valid if name == "another's" else edge_map
        indices, usable = select_patches(
            jnp.asarray(similarity), jnp.float32(scale), jnp.asarray(edges), jnp.asarray(valid),
            jnp.ones(len(valid), bool), SimpleNamespace(top_k=top_k, use_edges=name != "none"),
        )  # fmt: skip
        hit = np.take_along_axis(seam[None, :, None], np.asarray(indices), axis=3)
        counted = np.broadcast_to(np.asarray(usable)[None, :, None], hit.shape)
        for label, kind in enumerate(("authentic", "manipulated")):
            found[f"{name}, {kind}"] = float(hit[:, :, label][counted[:, :, label]].mean())
    return found


def measure_run(
    run: Path, pictures: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> dict[str, float]:
    """`shares` of a training run's weights on the pictures that they call tampered.

    Also "chance", the share of all pictures' patches that lie on the seam: alone, where none is.
    """
    model, config = load_model(run, None, None)[:2]
    geometry = Geometry(config.image.size, model.clip.config.vision.patch_size)
    options = EdgeOptions.from_config(config.image)
    items = [preprocess(picture, geometry, options) for picture in pictures]
    apply, similarity, called = nnx.jit(SAPL.__call__), [], []
    for start in range(0, len(items), BATCH):
        part = items[start : start + BATCH]
        inputs = ([getattr(p, name) for p in part] for name in ("image", "edge_map", "valid"))
        outputs = apply(model, *(jnp.asarray(np.stack(each)) for each in inputs))
        similarity.append(jax.device_get(outputs.similarity))
        called.append(np.argmax(outputs.image_logits, axis=-1) == TAMPERED)
    found = np.concatenate(called)
    valid = np.stack([item.valid.ravel() for item in items])
    edge_map = np.stack([item.edge_map.ravel() for item in items])
    seam = np.stack([seam_patches(m, i, geometry) for m, i in zip(masks, items, strict=True)])
    chance = {"chance": float(seam[valid].mean())}
    if not found.any():
        return chance
    arrays = (edge_map[found], valid[found], seam[found])
    scale, top_k = float(model.scale), config.model.hecl.top_k
    each = shares(np.concatenate(similarity, axis=1)[:, found], scale, *arrays, top_k)
    return chance | each


def main() -> None:
    """The command: measure, print."""
    parser = Parser("python -m benchmarks.selection", __doc__)
    parser.add_argument("output", type=Path, help="the ablation's --output folder")
    output: Path = parser.parse_args().output.expanduser()
    runs, pictures, masks = finished_runs(output), [], []
    for sample in read_dataset("folder", output / "data" / "test").samples:
        if sample.label == TAMPERED and sample.mask:
            pictures.append(read_image(sample.image))
            masks.append(load_mask(sample.mask, pictures[-1], sample.mask_style).grey)
    by_row: dict[str, list[dict[str, float]]] = {}
    for run in ProgressBar(runs, desc="rows", unit="row"):
        by_row.setdefault(run.name, []).append(measure_run(run / "run", pictures, masks))
    columns = [f"{name}, {kind}" for name in EDGES for kind in ("manipulated", "authentic")]
    lines = [["row", "seeds", *columns]]
    chance = number(next(iter(by_row.values()))[0]["chance"])
    lines.append(["patches by chance", "-", *[chance] * len(columns)])
    for row in (row for row in ablations.ROWS if row in by_row):
        seeds = by_row[row]
        cells = [spread([each.get(column) for each in seeds]) for column in columns]
        lines.append([ablations.ROWS[row].title, str(len(seeds)), *cells])
    print("\n".join(aligned(lines, names=1)))


if __name__ == "__main__":
    run_main(main)
