"""What the maps of an ablation find of seams, and what a picture's own edges are worth to them.

python -m benchmarks.seams demo/ablation

Takes the finished rows of `./launch.sh ablation`, whose --output is given, and its test pictures.
Per row, mean and spread over the seeds: I-AUC; patch AUC (cells of 16 pixels of the heat map, mean
over tampered pictures) in a band of 13 pixels along the outline and over the mask; the share of
tampered pictures whose map is inverted (an AUC over the mask below .5). The soft edge map alone
stands beside: a map that is not above it has learned nothing about seams. Then the differences of
rows, seed by seed. What was measured is kept as seams.json beside each row's evaluation.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.probe import CELL, outline_band
from configs import ablations
from data_pipelines.images import read_image
from data_pipelines.listing import TAMPERED, Sample
from data_pipelines.masks import load_mask
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import soft_edge_map
from sapl_jax.demo.ablation import DIFFERENCES, spread
from sapl_jax.errors import Parser, UserError, run_main
from sapl_jax.evaluation.results import aligned
from sapl_jax.files import write_json
from sapl_jax.inference.localizer import Localizer
from sapl_jax.metrics import roc_auc

BAND = 13  # pixels: width of a seam
MEASURES = {"i_auc": "I-AUC", "seam": "seam", "mask": "mask", "inverted": "inverted"}
_MORE = (("sapl", "sapl_no_edge"),)


def cells(values: np.ndarray) -> np.ndarray:
    """Means of [H,W] over the cells that fit in, float64 [cells]."""
    height, width = (side // CELL * CELL for side in values.shape)
    blocks = values[:height, :width].reshape(height // CELL, CELL, width // CELL, CELL)
    return blocks.mean((1, 3), dtype=np.float64).ravel()


def seam_and_mask(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of a mask, uint8 [H,W] 0 to 255, are mostly seam, and mostly inside: bool."""
    inside = (mask > 127).astype(np.uint8)
    return cells(outline_band(inside, BAND)) > 0.5, cells(inside) > 0.5


def read_truths(
    samples: Sequence[Sample], pictures: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """`seam_and_mask` of tampered pictures that have a mask, None for all others."""
    return [
        seam_and_mask(load_mask(sample.mask, picture, sample.mask_style).grey)
        if sample.label == TAMPERED and sample.mask
        else None
        for sample, picture in zip(samples, pictures, strict=True)
    ]


def measure(
    maps: Iterator[np.ndarray], truths: Sequence[tuple[np.ndarray, np.ndarray] | None]
) -> dict[str, float]:
    """The measures of heat maps [H,W], one per picture; a truth is None for authentic ones."""
    aucs: dict[str, list[float]] = {"seam": [], "mask": []}
    for heat_map, truth in zip(maps, truths, strict=True):
        if truth is None:
            continue
        scores = cells(heat_map)
        for found, target in zip(aucs.values(), truth, strict=True):
            if (auc := roc_auc(target, scores)) is not None:
                found.append(auc)
    inverted = float(np.mean(np.array(aucs["mask"]) < 0.5))
    return {name: float(np.mean(found)) for name, found in aucs.items()} | {"inverted": inverted}


def finished_runs(output: Path) -> list[Path]:
    """The folders seedN/ROW of an ablation's finished rows; UserError where there is none."""
    runs = [path.parent for path in sorted(output.glob("seed*/*/done.json"))]
    if not runs:
        raise UserError(f"{output}: no finished row of `./launch.sh ablation --output` in there")
    return runs


def measure_runs(output: Path) -> dict[str, dict[str, float]]:
    """The measures of "edge map" and of each finished "seedN/ROW", read or made now."""
    runs = finished_runs(output)
    samples = read_dataset("folder", output / "data" / "test").samples
    pictures = [read_image(sample.image) for sample in samples]
    truths = read_truths(samples, pictures)
    labels = np.array([sample.label == TAMPERED for sample in samples])
    found = {"edge map": measure(map(soft_edge_map, pictures), truths)}
    for run in ProgressBar(runs, desc="rows", unit="row"):
        file, done = run / "seams.json", run / "done.json"
        if not file.is_file() or file.stat().st_mtime < done.stat().st_mtime:
            results = Localizer.load(run / "run").analyse(pictures)
            i_auc = roc_auc(labels, np.array([result.score for result in results]))
            measured = measure((result.heat_map for result in results), truths)
            write_json(file, {"i_auc": i_auc, **measured})
        found[f"{run.parent.name}/{run.name}"] = json.loads(file.read_text())
    return found


def tables(found: dict[str, dict[str, float]]) -> list[str]:
    """Lines to print: rows, then differences."""
    by_row: dict[str, dict[str, dict[str, float]]] = {}
    for name, values in found.items():
        seed, slash, row = name.partition("/")
        if slash:
            by_row.setdefault(row, {})[seed] = values
    lines = [["row", "seeds", *MEASURES.values()]]
    floor = [spread([found["edge map"][m]]) for m in MEASURES if m != "i_auc"]
    lines.append(["soft edge map alone", "-", "-", *floor])
    for row in (row for row in ablations.ROWS if row in by_row):
        seeds = by_row[row].values()
        means = [spread([each[m] for each in seeds]) for m in MEASURES]
        lines.append([ablations.ROWS[row].title, str(len(seeds)), *means])
    differences = [["difference", "seeds", *MEASURES.values()]]
    for above, below in (*DIFFERENCES, *_MORE):
        high, low = by_row.get(above, {}), by_row.get(below, {})
        if both := sorted(high.keys() & low.keys()):
            gains = [spread([high[s][m] - low[s][m] for s in both]) for m in MEASURES]
            titles = f"{ablations.ROWS[above].title} - {ablations.ROWS[below].title}"
            differences.append([titles, str(len(both)), *gains])
    return [*aligned(lines, names=1), "", *aligned(differences, names=1)]


def main() -> None:
    """The command: measure, print."""
    parser = Parser("python -m benchmarks.seams", __doc__)
    parser.add_argument("output", type=Path, help="the ablation's --output folder")
    print("\n".join(tables(measure_runs(parser.parse_args().output.expanduser()))))


if __name__ == "__main__":
    run_main(main)
