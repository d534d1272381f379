"""The report's figures, drawn with matplotlib; each function returns a PNG as bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_pipelines.soft_edges import DEFAULT_OPTIONS, EdgeOptions, canny_edges, soft_edge_map
from sapl_jax.evaluation.features import Embedding
from sapl_jax.evaluation.gallery import Exhibit
from sapl_jax.evaluation.perturbations import Sweep
from sapl_jax.evaluation.results import TITLES, number
from sapl_jax.evaluation.session import Point, Session
from sapl_jax.metrics import expected_calibration_error, reliability, roc_auc, roc_curve

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DPI = 110
_LEAST_SPAN = 0.2  # of a robustness curve's axis


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
    return buffer.getvalue()


def _grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for extra in axes[count:]:
        extra.set_axis_off()
    return figure, list(axes[:count])


def _diagonal(axis: Any, margin: float, **texts: str) -> None:
    """A square panel from 0 to 1 with its dotted diagonal."""
    limits = (-margin, 1 + margin)
    axis.plot([0, 1], [0, 1], color="0.75", linewidth=1, linestyle=":")
    axis.set(xlim=limits, ylim=limits, aspect="equal", **texts)


def roc_curves(curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> bytes | None:
    """ROC curves of the image scores, one panel per data set, one line per method.

    Args:
        curves: data set -> method -> (labels [N], scores [N]). Data sets of one class are left out.

    Returns:
        A PNG; None when no data set is left.
    """
    panels = {}
    for name, methods in curves.items():
        found = {method: roc_curve(*pair) for method, pair in methods.items()}
        if any(curve is not None for curve in found.values()):
            panels[name] = found
    if not panels:
        return None
    figure, axes = _grid(len(panels), 3, 3.6, 3.5)
    for axis, (name, found) in zip(axes, panels.items(), strict=True):
        labels = {
            "xlabel": "authentic pictures called tampered",
            "ylabel": "tampered pictures found",
        }
        _diagonal(axis, 0.01, title=name, **labels)
        for index, (method, curve) in enumerate(found.items()):
            if curve is not None:
                label = f"{method} {number(roc_auc(*curves[name][method]))}"
                axis.plot(*curve, color=COLOURS[index % len(COLOURS)], label=label)
        axis.legend(loc="lower right", fontsize=8, frameon=False, title="I-AUC", title_fontsize=8)
    return png(figure)


def robustness_curves(
    sweep: Sweep, points: Mapping[str, Sequence[Point]], measures: Sequence[str]
) -> bytes | None:
    """One panel per measure against the sweep's levels, the clean picture first; a line per set.

    Measures that no data set defines are left out; None when none is left.
    """
    measures = [
        measure
        for measure in measures
        if any(found.summary[measure] is not None for line in points.values() for _, found in line)
    ]
    if not measures:
        return None
    figure, axes = _grid(len(measures), 3, 4.2, 3.2)
    ticks = ["clean", *(str(level) for level in sweep.levels)]
    for axis, measure in zip(axes, measures, strict=True):
        for index, (name, line) in enumerate(points.items()):
            values = [found.summary[measure] for _, found in line]
            if all(value is None for value in values):
                continue
            heights = np.array(values, np.float64)
            axis.errorbar(
                range(len(values)),
                heights,
                yerr=_bars(heights, [found.intervals.get(measure) for _, found in line]),
                elinewidth=1,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                label=name,
            )
        low, high = axis.get_ylim()
        if high - low < _LEAST_SPAN:  # or noise would look like an effect
            middle = (low + high) / 2
            axis.set_ylim(middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2)
        axis.set_xticks(range(len(ticks)), ticks)
        axis.set(
            title=f"{TITLES[measure]}, {sweep.title}", xlabel=sweep.unit, ylabel=TITLES[measure]
        )
        axis.grid(axis="y", color="0.9")
        axis.legend(fontsize=8, frameon=False)
    return png(figure)


def reliability_curves(
    panels: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]],
) -> bytes | None:
    """Reliability diagrams, a panel per data set: its labels [N] and named scores [N]."""
    if not panels:
        return None
    figure, axes = _grid(len(panels), 3, 3.6, 3.5)
    for axis, (dataset, (labels, named)) in zip(axes, panels.items(), strict=True):
        _diagonal(axis, 0.03, title=dataset, xlabel="score", ylabel="share of tampered pictures")
        for index, (name, scores) in enumerate(named.items()):
            score, share, count = reliability(labels, scores)
            label = f"{name}, ECE {number(expected_calibration_error(labels, scores))}"
            axis.plot(score, share, color=COLOURS[index], label=label)
            axis.scatter(score, share, 8 + 120 * count / count.sum(), color=COLOURS[index])
        axis.legend(loc="upper left", fontsize=8, frameon=False)
    return png(figure)


def _bars(values: np.ndarray, intervals: Sequence[Sequence[float] | None]) -> np.ndarray:
    """Lengths [2, N] of error bars down and up from values [N]; none where there is no interval."""
    ends = np.array([found or (np.nan, np.nan) for found in intervals])
    return np.nan_to_num(np.maximum((ends.T - values) * [[-1], [1]], 0))


def bars(session: Session, measures: Sequence[str]) -> bytes | None:
    """Every method's measures with their intervals, a panel per data set and measure."""
    panels = []
    for dataset in session.main:
        found = {m.name: r for m in session.methods for r in session.of(m.name, dataset.name)}
        for measure in measures:
            shown = {n: r for n, r in found.items() if r.summary[measure] is not None}
            if shown:
                panels.append((dataset.name, measure, shown))
    if not panels:
        return None
    most = max(len(shown) for _, _, shown in panels)
    figure, axes = _grid(len(panels), 2, 5.0, 0.9 + 0.3 * most)
    for axis, (name, measure, shown) in zip(axes, panels, strict=True):
        values = np.array([result.summary[measure] for result in shown.values()], np.float64)
        lengths = _bars(values, [result.intervals.get(measure) for result in shown.values()])
        places = np.arange(len(values))
        axis.errorbar(values, places, xerr=lengths, fmt="o", markersize=5, color=COLOURS[0])
        axis.set(title=f"{TITLES[measure]}, {name}", ylim=(len(values) - 0.5, -0.5))
        axis.set_yticks(places, list(shown))
        axis.grid(axis="x", color="0.9")
    return png(figure)


def gallery(exhibits: Sequence[Exhibit], methods: Sequence[str]) -> bytes | None:
    """Pictures, masks, and each method's heat map and mask, one row per picture (Figure 6)."""
    if not exhibits:
        return None
    columns = ["picture", "mask"]
    for method in methods:
        columns += [f"{method}: heat map", f"{method}: > 0.5"]
    cell = 1.75
    shapes = [exhibit.image.shape for exhibit in exhibits]
    heights = [min(2.2, shape[0] / shape[1]) for shape in shapes]
    figure = Figure(figsize=(cell * len(columns), cell * sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(
        len(exhibits), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, column in zip(grid[0], columns, strict=True):
        axis.set_title(column, fontsize=8)
    for row, exhibit in zip(grid, exhibits, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].imshow(exhibit.image)
        if exhibit.mask is None:
            row[1].text(0.5, 0.5, "no mask", ha="center", va="center", fontsize=8)
        else:
            row[1].imshow(exhibit.mask, cmap="gray", vmin=0, vmax=1)
        for index, method in enumerate(methods):
            heat_map = exhibit.heat_maps.get(method)
            if heat_map is None:
                continue
            row[2 + 2 * index].imshow(heat_map, cmap="inferno", vmin=0, vmax=1)
            row[3 + 2 * index].imshow(heat_map > 0.5, cmap="gray", vmin=0, vmax=1)
            row[3 + 2 * index].set_xlabel(f"F1 {number(exhibit.p_f1[method])}", fontsize=7)
    return png(figure)


def embedding(found: Embedding, title: str) -> bytes:
    """The t-SNE map of edge patches, authentic and manipulated (Figure 7)."""
    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    axis = figure.subplots()
    for tampered, label in ((False, "authentic edges"), (True, "manipulated edges")):
        points = found.points[found.tampered == tampered]
        x, y = points.T
        axis.scatter(x, y, s=7, alpha=0.7, color=COLOURS[int(tampered)], label=label)
    axis.set(title=title, xticks=[], yticks=[])
    axis.legend(fontsize=8, markerscale=2)
    return png(figure)


def soft_edges(exhibits: Sequence[Exhibit], options: EdgeOptions = DEFAULT_OPTIONS) -> bytes | None:
    """Pictures with their Canny edges and soft edge maps, one column per picture (Figure 4)."""
    if not exhibits:
        return None
    rows = ["picture", "Canny edges", "soft edge map"]
    width = 2.2
    tallest = max(exhibit.image.shape[0] / exhibit.image.shape[1] for exhibit in exhibits)
    figure = Figure(
        figsize=(width * len(exhibits), width * len(rows) * min(1.5, tallest) + 0.2),
        layout="constrained",
    )
    grid = figure.subplots(len(rows), len(exhibits), squeeze=False)
    for row, title in zip(grid, rows, strict=True):
        row[0].set_ylabel(title, fontsize=9)
    for column, exhibit in enumerate(exhibits):
        grid[0][column].imshow(exhibit.image)
        grid[1][column].imshow(canny_edges(exhibit.image, options), cmap="gray")
        shown = grid[2][column].imshow(
            soft_edge_map(exhibit.image, options), cmap="magma", vmin=0, vmax=1
        )
        for axis in grid[:, column]:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.colorbar(shown, ax=list(grid[2]), shrink=0.8)
    return png(figure)
