"""Training curves of a run, from its metrics.jsonl."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sapl_jax.evaluation.figures import COLOURS, png

_PANELS = (
    ("loss", "total loss", ("loss",)),
    ("parts", "parts of the loss", ("loss_cls", "loss_patches", "loss_hecl")),
    ("validation", "validation I-AUC", ("val_i_auc",)),
)
_SMOOTHED = 15  # lines of the log that one drawn point averages at most


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (steps, values) of a `metrics.jsonl`; a line cut off by a crash is left out."""
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
        for _, title, names in _PANELS
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
