"""The demo's figures: the best and worst tampered pictures, and the run's training curves."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_pipelines.listing import TAMPERED, Listing
from data_pipelines.soft_edges import EdgeOptions, soft_edge_map
from sapl_jax.evaluation.evaluator import DatasetResult, load_sample
from sapl_jax.evaluation.figures import COLOURS, png
from sapl_jax.evaluation.results import number
from sapl_jax.inference.detector import Detector

COLUMNS = ("picture", "soft edge map", "heat map", "mask", "ground truth")


@dataclasses.dataclass(frozen=True)
class Case:
    """One picture, uint8 RGB [H, W, 3], its ground truth, bool [H, W], and what was found."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    heat_map: np.ndarray
    p_f1: float


def best_and_worst(
    detector: Detector, listing: Listing, result: DatasetResult, count: int
) -> tuple[list[Case], list[Case]]:
    """The `count` tampered pictures of highest and of lowest P-F1, best and worst first."""
    ranked = sorted(
        (r for r in result.records if r.scores.label == TAMPERED and r.scores.p_f1 is not None),
        key=lambda record: (-float(record.scores.p_f1 or 0.0), record.name),
    )
    count = min(count, len(ranked) // 2)
    samples = {sample.name: sample for sample in listing.samples}
    found: list[list[Case]] = []
    for records in (ranked[:count], ranked[::-1][:count]):
        cases = []
        for record in records:
            loaded = load_sample(samples[record.name])
            if loaded.image is None or loaded.mask is None:
                continue  # Gone since the evaluation.
            (analysis,) = detector.analyse([loaded.image])
            cases.append(
                Case(
                    record.name,
                    loaded.image,
                    loaded.mask > 127,
                    analysis.heat_map,
                    float(record.scores.p_f1 or 0.0),
                )
            )
        found.append(cases)
    return found[0], found[1]


def case_figure(cases: Sequence[Case], options: EdgeOptions, threshold: float) -> bytes | None:
    """One row per picture: picture, soft edge map, heat map, mask, ground truth; PNG bytes."""
    if not cases:
        return None
    heights = [min(1.5, case.image.shape[0] / case.image.shape[1]) for case in cases]
    figure = Figure(figsize=(1.8 * len(COLUMNS), 1.8 * sum(heights) + 0.4), layout="constrained")
    grid = figure.subplots(
        len(cases), len(COLUMNS), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, title in zip(grid[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=9)
    for row, case in zip(grid, cases, strict=True):
        row[0].imshow(case.image)
        row[1].imshow(soft_edge_map(case.image, options), cmap="magma", vmin=0, vmax=1)
        row[2].imshow(case.heat_map, cmap="inferno", vmin=0, vmax=1)
        row[3].imshow(case.heat_map > threshold, cmap="gray", vmin=0, vmax=1)
        row[4].imshow(case.truth, cmap="gray", vmin=0, vmax=1)
        row[3].set_xlabel(f"F1 {number(case.p_f1)}", fontsize=8)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    return png(figure)


PANELS = (  # title, names in metrics.jsonl
    ("total loss", ("loss",)),
    ("parts of the loss", ("loss_cls", "loss_background", "loss_hecl")),
    ("validation I-AUC", ("val_i_auc",)),
)
_SMOOTHED = 15  # lines of the log that one drawn point averages at most


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (steps, values) of a `metrics.jsonl`; a line cut off by a crash is left out."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        for name, value in values.items():
            if name != "step":
                points.setdefault(name, []).append((values["step"], value))
    return {name: (np.array(p)[:, 0], np.array(p)[:, 1]) for name, p in points.items()}


def training_curves(metrics: dict[str, tuple[np.ndarray, np.ndarray]]) -> bytes | None:
    """Loss, its parts and the validation's I-AUC against the step, as PNG; None without numbers."""
    panels = [
        (title, [name for name in names if name in metrics and np.any(metrics[name][1])])
        for title, names in PANELS
    ]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        return None
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, names) in zip(axes, panels, strict=True):
        for index, name in enumerate(names):
            steps, values = metrics[name]
            colour = COLOURS[index]
            width = min(_SMOOTHED, max(1, len(values) // 8))
            if name == "val_i_auc" or width == 1:
                axis.plot(steps, values, color=colour, marker="o", markersize=3, label=name)
                continue
            kernel = np.ones(width) / width
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            smooth = np.convolve(values, kernel, mode="valid")
            axis.plot(steps[width - 1 :], smooth, color=colour, label=name)
        axis.set(title=title, xlabel="step")
        axis.grid(axis="y", color="0.9")
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False)
    return png(figure)
