"""Writes an evaluation's report: `report.md` with `figures/`, and a self-contained `report.html`.

It holds the measures, the paper's Table 1 beside ours, ROC and robustness curves, galleries
(Figure 6), t-SNE of edge patches (Figure 7), soft edge maps (Figure 4), and what was skipped.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.doctor import EXPECTED
from data_pipelines.soft_edges import DEFAULT_OPTIONS, EdgeOptions
from sapl_jax.evaluation import figures, results
from sapl_jax.evaluation.document import Picture, Section, Table, to_html, to_markdown
from sapl_jax.evaluation.evaluator import DatasetResult
from sapl_jax.evaluation.features import Embedding
from sapl_jax.evaluation.perturbations import SWEEPS
from sapl_jax.evaluation.published import COLUMNS, TABLE_1, WITHOUT_I_AUC
from sapl_jax.evaluation.results import pair
from sapl_jax.evaluation.session import Session
from sapl_jax.files import versions, write_atomically

_LISTED = 20  # skipped files and notes listed per data set; results.json has them all
_BARS = ("i_auc", "p_f1")
_SWEPT = ("i_auc", "p_f1", "p_auc")
_EDGE_EXHIBITS = 4


def write(
    session: Session,
    output: Path,
    *,
    embeddings: Mapping[str, Embedding] | None = None,
    edge_options: EdgeOptions = DEFAULT_OPTIONS,
) -> None:
    """Writes report.md, report.html and figures/*.png into `output`.

    Args:
        embeddings: per data set, the t-SNE of edge patches.
        edge_options: of the soft edge maps.
    """
    sections = build(session, embeddings or {}, edge_options)
    title = f"Evaluation of {session.methods[0].name}"
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                path = output / "figures" / f"{part.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(part.png)
    write_atomically(output / "report.md", to_markdown(title, sections))
    write_atomically(output / "report.html", to_html(title, sections))


def build(
    session: Session, embeddings: Mapping[str, Embedding], edge_options: EdgeOptions
) -> list[Section]:
    """The report's sections; those that have nothing to show are left out."""
    sections = [
        _measures(session),
        _table_1(session),
        _roc(session),
        _calibration(session),
        _robustness(session),
        _galleries(session),
        _embeddings(embeddings),
        _edges(session, edge_options),
        _files(session),
        _provenance(session),
    ]
    return [section for section in sections if section is not None and section.parts]


def _measures(session: Session) -> Section:
    header, *rows = (row[:-1] for row in results.rows(session))
    several = len(session.methods) > 1
    ours = {i for i, row in enumerate(rows) if row[1] == session.methods[0].name and several}
    text = (
        f"Protocol {session.protocol.name}. A dash marks a measure that is not defined: "
        "image-level ones need both classes, pixel-level ones a mask. "
    )
    parts: list = [text + results.legend(session), Table(header, rows, frozenset(ours), names=2)]
    if (png := figures.bars(session, _BARS)) is not None:
        parts.append(Picture("measures", png, "Measures with their bootstrap intervals."))
    return Section("Results", parts)


def _table_1(session: Session) -> Section | None:
    by_column: dict[str, dict[str, DatasetResult]] = {}
    incomplete = []
    for method in session.methods:
        for result in session.results.get(method.name, []):
            for column, layouts in COLUMNS.items():
                if result.layout in layouts:
                    by_column.setdefault(method.name, {}).setdefault(column, result)
                    counts = (result.summary["authentic"], result.summary["tampered"])
                    expected = EXPECTED.get(result.layout, counts)
                    if counts != expected and method is session.methods[0]:
                        incomplete.append(
                            f"{result.name}: {counts[0]} authentic and {counts[1]} tampered "
                            f"pictures instead of {expected[0]} and {expected[1]}"
                        )
    if not by_column:
        return None
    rows = [
        [row.method, *map(pair, row.p_f1, row.i_auc), pair(row.mean_p_f1, row.mean_i_auc)]
        for row in TABLE_1
    ]
    ours = set()
    for method in session.methods:
        if (found := by_column.get(method.name)) is not None:
            ours.add(len(rows))
            rows.append([f"{method.name} (here)", *_our_cells(found)])
    parts: list = [
        "P-F1 / I-AUC. The stressed rows were measured here, the others are the paper's Table 1.",
        Table(["method", *COLUMNS, "mean"], rows, frozenset(ours)),
    ]
    if session.protocol.name != "sapl":
        parts.append(
            f"Measured with protocol {session.protocol.name}, published with the paper's: the rows "
            "do not compare."
        )
    if incomplete:
        parts += ["These copies differ from the published sets:", incomplete]
    return Section("Table 1 of the paper, and ours", parts)


def _our_cells(found: Mapping[str, DatasetResult]) -> list[str]:
    p_f1s = [found[c].summary["p_f1"] if c in found else None for c in COLUMNS]
    i_aucs = [
        found[c].summary["i_auc"] if c in found and c not in WITHOUT_I_AUC else None
        for c in COLUMNS
    ]
    # A mean over fewer sets than the paper's would not compare with it.
    means = (
        float(np.mean(values)) if len(values) == needed else None
        for values, needed in (
            ([v for v in p_f1s if v is not None], len(COLUMNS)),
            ([v for v in i_aucs if v is not None], len(COLUMNS) - len(WITHOUT_I_AUC)),
        )
    )
    return [*map(pair, p_f1s, i_aucs), pair(*means)]


def _roc(session: Session) -> Section | None:
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for method in (method for method in session.methods if not method.floor):
        for result in session.results.get(method.name, []):
            if result.summary["i_auc"] is not None:
                curves.setdefault(result.name, {})[method.name] = result.labels_and_scores
    png = figures.roc_curves(curves)
    if png is None:
        return None
    return Section("ROC curves", [Picture("roc", png, "ROC curves of the image scores.")])


def _calibration(session: Session) -> Section | None:
    first, panels = session.methods[0], {}
    for result in session.main:
        if found := results.probabilities(session, first, result):
            panels[result.name] = (result.labels_and_scores[0], found)
    png = figures.reliability_curves(panels)
    if png is None:
        return None
    caption = (
        f"How often pictures of a score are tampered, for {first.name}; larger dots are more "
        "pictures. ECE: mean distance from the diagonal. It depends on the set's share of tampered "
        "pictures, so a probability fitted on another share is off here."
    )
    calibration = getattr(first.detector, "calibration", None)
    rule = [calibration.rule] if calibration else []
    return Section("Calibration", [*rule, Picture("reliability", png, caption)])


def _robustness(session: Session) -> Section | None:
    parts = []
    for name, sweep in SWEEPS.items():
        points = {data: sweeps[name] for data, sweeps in session.sweeps.items() if name in sweeps}
        png = figures.robustness_curves(sweep, points, _SWEPT) if points else None
        if png is not None:
            caption = (
                f"{session.methods[0].name} under {sweep.title} by {sweep.unit}, applied at the "
                f"pictures' own size; seed {session.seed}."
            )
            parts.append(Picture(f"robustness_{name}", png, caption))
    return Section("Robustness (Figure 8)", parts)


def _galleries(session: Session) -> Section | None:
    parts = []
    methods = [method.name for method in session.methods if not method.floor]
    for name, gallery in session.galleries.items():
        exhibits = [gallery.exhibits[key] for key in sorted(gallery.exhibits)]
        png = figures.gallery(exhibits, methods)
        if png is not None:
            names = ", ".join(exhibit.name for exhibit in exhibits)
            caption = f"{name}, chosen by position in the data set, not by result: {names}."
            parts.append(Picture(f"gallery_{name}", png, caption))
    return Section("Pictures, masks and heat maps (Figure 6)", parts)


def _embeddings(embeddings: Mapping[str, Embedding]) -> Section | None:
    parts = [
        Picture(
            f"tsne_{name}",
            figures.embedding(found, name),
            f"t-SNE of {len(found.points)} edge-patch features of {name}: the deepest tap's top "
            "patches of each picture, coloured by the picture's label.",
        )
        for name, found in embeddings.items()
    ]
    return Section("Edge-patch features (Figure 7)", parts)


def _edges(session: Session, options: EdgeOptions) -> Section | None:
    for name, gallery in session.galleries.items():
        exhibits = [gallery.exhibits[key] for key in sorted(gallery.exhibits)][:_EDGE_EXHIBITS]
        png = figures.soft_edges(exhibits, options)
        if png is not None:
            caption = f"Adaptive soft edge maps of pictures of {name}, Eq. (1)."
            return Section("Soft edge maps (Figure 4)", [Picture("soft_edges", png, caption)])
    return None


def _files(session: Session) -> Section | None:
    parts: list = []
    parts += [f"{data}: {method}: {reason}" for data, method, reason in session.unusable]
    known: set[tuple[Path, str]] = set()
    for method, result in (
        (m.name, r) for m in session.methods for r in session.results.get(m.name, [])
    ):
        for what, named in (("not evaluated", result.skipped), ("with a note", result.notes)):
            found = [pair for pair in named if pair not in known]
            known.update(found)
            if found:
                parts.append(f"{result.name}, {method}: {len(found)} files {what}.")
                items = [f"{path}: {reason}" for path, reason in found[:_LISTED]]
                if len(found) > _LISTED:
                    items.append(f"and {len(found) - _LISTED} more, see results.json")
                parts.append(items)
    return Section("Files", parts)


def _provenance(session: Session) -> Section:
    items = []
    for method in session.methods:
        items.append(f"{method.name}: {'; '.join(method.source_lines())}")
    for result in session.main:
        items.append(
            f"{result.name}: {result.root}, read as {result.layout}, {result.summary['authentic']} "
            f"authentic, {result.summary['tampered']} tampered, {result.summary['masks']} masks; "
            f"data sha256 {result.digest}"
        )
    items.append("versions: " + ", ".join(f"{k} {v}" for k, v in versions().items()))
    return Section("Provenance", [items])
