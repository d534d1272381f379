"""The report's figures, drawn with matplotlib; a function gives none where nothing is to be shown.

A panel is of one data set where nothing else is said.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from data_pipelines.soft_edges import EdgeOptions, canny_edges, soft_edge_map
from sapl_jax.evaluation.document import Picture
from sapl_jax.evaluation.evaluator import DatasetResult
from sapl_jax.evaluation.perturbations import SWEEPS
from sapl_jax.evaluation.results import TITLES, number, probabilities
from sapl_jax.evaluation.session import Session
from sapl_jax.metrics import expected_calibration_error, reliability

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DPI = 110
_LEAST_SPAN = 0.2  # of a robustness curve's axis
_CELL = 1.75  # width of a picture in a table of them, in inches
_EDGE_PICTURES = 4
_ABREAST = 3  # methods in a gallery; with more, their heads cannot be read


def grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels of width x height inches, at most `columns` in a row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for extra in axes[count:]:
        extra.set_axis_off()
    return figure, list(axes[:count])


def drawn(name: str, figure: Figure, caption: str) -> Picture:
    """The figure as a report's picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
    return Picture(name, buffer.getvalue(), caption)


def _diagonal(axis: Any, margin: float, **texts: str) -> None:
    """A square panel from 0 to 1 with its dotted diagonal."""
    limits = (-margin, 1 + margin)
    axis.plot([0, 1], [0, 1], color="0.75", linewidth=1, linestyle=":")
    axis.set(xlim=limits, ylim=limits, aspect="equal", **texts)


def _bars(results: Sequence[DatasetResult], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure's values [N] and its error bars' lengths [2, N]; none without an interval."""
    values = np.array([result.summary[measure] for result in results], np.float64)
    ends = np.array([result.intervals.get(measure, (np.nan, np.nan)) for result in results])
    return values, np.nan_to_num(np.maximum((ends.T - values) * [[-1], [1]], 0))


def _defined(session: Session, measure: str, floors: bool) -> dict[str, dict[str, DatasetResult]]:
    """Per data set, the results of the methods that have a measure there; floors: theirs too."""
    methods = {method.name for method in session.methods if floors or not method.floor}
    found = {}
    for dataset in session.datasets:
        results = session.on(dataset).items()
        having = {n: r for n, r in results if n in methods and r.summary[measure] is not None}
        if having:
            found[dataset] = having
    return found


def bars(session: Session) -> list[Picture]:
    """Every method's measures with their intervals, a panel per data set and measure."""
    found = {measure: _defined(session, measure, floors=True) for measure in ("i_auc", "p_f1")}
    panels = [(d, m, sets[d]) for d in session.datasets for m, sets in found.items() if d in sets]
    if not panels:
        return []
    most = max(len(results) for _, _, results in panels)
    figure, axes = grid(len(panels), 2, 5.0, 0.9 + 0.3 * most)
    for axis, (dataset, measure, results) in zip(axes, panels, strict=True):
        values, lengths = _bars(list(results.values()), measure)
        places = np.arange(len(values))
        axis.errorbar(values, places, xerr=lengths, fmt="o", markersize=5, color=COLOURS[0])
        axis.set(title=f"{TITLES[measure]}, {dataset}", ylim=(len(values) - 0.5, -0.5))
        axis.set_yticks(places, list(results))
        axis.grid(axis="x", color="0.9")
    return [drawn("measures", figure, "Measures with their bootstrap intervals.")]


def roc_curves(session: Session, floors: bool = False) -> list[Picture]:
    """ROC curves of the image scores, one line per method; floors: those of floors as well."""
    panels = _defined(session, "i_auc", floors)
    if not panels:
        return []
    figure, axes = grid(len(panels), 3, 3.6, 3.5)
    for axis, (dataset, found) in zip(axes, panels.items(), strict=True):
        x, y = "authentic pictures called tampered", "tampered pictures found"
        _diagonal(axis, 0.01, title=dataset, xlabel=x, ylabel=y)
        for index, (method, result) in enumerate(found.items()):
            label = f"{method} {number(result.summary['i_auc'])}"
            false, true, _ = roc_curve(*result.labels_and_scores)
            axis.plot(false, true, color=COLOURS[index % len(COLOURS)], label=label)
        axis.legend(loc="lower right", fontsize=8, frameon=False, title="I-AUC", title_fontsize=8)
    return [drawn("roc", figure, "ROC curves of the image scores.")]


def robustness_curves(session: Session) -> list[Picture]:
    """Per sweep, a panel per measure against its levels, the clean picture first; a line per set.

    Measures that no data set defines are left out.
    """
    found = []
    for name, sweep in SWEEPS.items():
        swept = {data: sweeps[name] for data, sweeps in session.sweeps.items() if name in sweeps}
        lines = {data: [result for _, result in points] for data, points in swept.items()}
        defined = {m for line in lines.values() for r in line for m, v in r.summary.items()
                   if v is not None}  # fmt: skip
        measures = [measure for measure in ("i_auc", "p_f1", "p_auc") if measure in defined]
        if not measures:
            continue
        figure, axes = grid(len(measures), 3, 4.2, 3.2)
        for axis, measure in zip(axes, measures, strict=True):
            looks = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=True)
            for (data, line), (colour, marker) in zip(lines.items(), looks, strict=False):
                values, lengths = _bars(line, measure)
                if np.isfinite(values).any():
                    look = {"label": data, "color": colour, "marker": marker, "markersize": 4}
                    axis.errorbar(range(len(values)), values, yerr=lengths, elinewidth=1, **look)
            low, high = axis.get_ylim()
            if high - low < _LEAST_SPAN:  # or noise would look like an effect
                middle = (low + high) / 2
                axis.set_ylim(middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2)
            axis.set_xticks(range(len(sweep.levels) + 1), ["clean", *map(str, sweep.levels)])
            title = TITLES[measure]
            axis.set(title=f"{title}, {sweep.title}", xlabel=sweep.unit, ylabel=title)
            axis.grid(axis="y", color="0.9")
            axis.legend(fontsize=8, frameon=False)
        caption = (
            f"{session.methods[0].name} under {sweep.title} by {sweep.unit}, applied at the "
            f"pictures' own size; seed {session.seed}."
        )
        found.append(drawn(f"robustness_{name}", figure, caption))
    return found


def reliability_curves(session: Session) -> list[Picture]:
    """Reliability diagrams of the first method's scores, and of its calibrated probabilities."""
    first = session.methods[0]
    panels = [(r, named) for r in session.main if (named := probabilities(session, first, r))]
    if not panels:
        return []
    figure, axes = grid(len(panels), 3, 3.6, 3.5)
    for axis, (result, named) in zip(axes, panels, strict=True):
        texts = {"xlabel": "score", "ylabel": "share of tampered pictures"}
        _diagonal(axis, 0.03, title=result.name, **texts)
        labels, _ = result.labels_and_scores
        for index, (name, scores) in enumerate(named.items()):
            score, share, count = reliability(labels, scores)
            label = f"{name}, ECE {number(expected_calibration_error(labels, scores))}"
            axis.plot(score, share, color=COLOURS[index], label=label)
            axis.scatter(score, share, 8 + 120 * count / count.sum(), color=COLOURS[index])
        axis.legend(loc="best", fontsize=8, frameon=False)
    caption = (
        f"How often pictures of a score are tampered, for {first.name}; larger dots are more "
        "pictures. ECE: mean distance from the diagonal. It depends on the set's share of tampered "
        "pictures, so a probability fitted on another share is off here."
    )
    return [drawn("reliability", figure, caption)]


def embedding(points: np.ndarray, of_tampered: np.ndarray, dataset: str) -> Picture:
    """The t-SNE map of edge patches, authentic and manipulated (Figure 7)."""
    figure, (axis,) = grid(1, 1, 4.6, 4.3)
    for tampered, label in ((False, "authentic edges"), (True, "manipulated edges")):
        x, y = points[of_tampered == tampered].T
        axis.scatter(x, y, s=7, alpha=0.7, color=COLOURS[int(tampered)], label=label)
    axis.set(title=dataset, xticks=[], yticks=[])
    axis.legend(fontsize=8, markerscale=2)
    caption = (
        f"t-SNE of {len(points)} edge-patch features of {dataset}: the deepest tap's top "
        "patches of each picture, coloured by the picture's label."
    )
    return drawn(f"tsne_{dataset}", figure, caption)


class Panel(NamedTuple):
    """A picture in a table of them: uint8 RGB [h, w, 3], [h, w] from 0 to 1, or none."""

    pixels: np.ndarray | None
    colours: str = "gray"
    note: str = ""


def pictures(name: str, rows: Sequence[Mapping[str, Panel]], caption: str) -> list[Picture]:
    """A table of pictures, one row each, the first one's keys above; no row, no table."""
    if not rows:
        return []
    shapes = [next(panel.pixels.shape for panel in row.values() if panel.pixels is not None)
              for row in rows]  # fmt: skip
    heights = [min(2.2, shape[0] / shape[1]) for shape in shapes]
    size = (_CELL * len(rows[0]), _CELL * sum(heights) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    table = figure.subplots(len(rows), len(rows[0]), squeeze=False, height_ratios=heights)
    for axis, title in zip(table[0], rows[0], strict=True):
        axis.set_title(title, fontsize=8)
    for axes, row in zip(table, rows, strict=True):
        for axis, panel in zip(axes, row.values(), strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(panel.note, fontsize=7)
            if panel.pixels is not None:
                axis.imshow(panel.pixels, cmap=panel.colours, vmin=0, vmax=1)
    return [drawn(name, figure, caption)]


def galleries(session: Session) -> list[Picture]:
    """Of each data set, pictures, masks, and each method's heat map and mask (Figure 6)."""
    found: list[Picture] = []
    methods = [method.name for method in session.methods if not method.floor]
    starts = range(0, len(methods), _ABREAST)
    for dataset, start in itertools.product(session.datasets, starts):
        kept, rows = {}, {}
        for method, result in session.on(dataset).items():
            for record in result.records:
                if record.shown is not None:
                    kept[record.name, method] = record.shown, record.scores.p_f1
        for name, shown in sorted({name: shown for (name, _), (shown, _) in kept.items()}.items()):
            row = {
                "picture": Panel(shown.image),
                "mask": Panel(shown.mask, note="" if shown.mask is not None else "no mask"),
            }
            for method in methods[start : start + _ABREAST]:
                row[f"{method}: heat map"] = row[f"{method}: > 0.5"] = Panel(None)
                if (name, method) in kept:
                    (_, _, heat_map), f1 = kept[name, method]
                    row[f"{method}: heat map"] = Panel(heat_map, "inferno")
                    row[f"{method}: > 0.5"] = Panel(heat_map > 0.5, note=f"F1 {number(f1)}")
            rows[name] = row
        text = f"{dataset}, chosen by position in the data set, not by result: {', '.join(rows)}."
        name = f"gallery_{dataset}".replace(" ", "_") + f".{start // _ABREAST + 1}" * (start > 0)
        found += pictures(name, [*rows.values()], text)
    return found


def soft_edges(session: Session, options: EdgeOptions) -> list[Picture]:
    """A data set's pictures with their Canny edges and soft edge maps (Figure 4)."""
    for result in session.main:
        images = [record.shown.image for record in result.records if record.shown]
        rows = [
            {
                "picture": Panel(image),
                "Canny edges": Panel(canny_edges(image, options)),
                "soft edge map": Panel(soft_edge_map(image, options), "magma"),
            }
            for image in images[:_EDGE_PICTURES]
        ]
        if rows:
            caption = (
                f"Adaptive soft edge maps of pictures of {result.name}, Eq. (1): 1 is bright, 0 is "
                "black."
            )
            return pictures("soft_edges", rows, caption)
    return []
