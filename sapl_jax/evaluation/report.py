"""Writes an evaluation's report: `report.md` with `figures/`, and a self-contained `report.html`.

It holds the measures, the paper's Table 1 beside ours, ROC and robustness curves, galleries
(Figure 6), t-SNE of edge patches (Figure 7), soft edge maps (Figure 4), and what was skipped.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.doctor import EXPECTED
from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from data_pipelines.soft_edges import DEFAULT_OPTIONS
from sapl_jax.errors import UserError
from sapl_jax.evaluation import figures, results
from sapl_jax.evaluation.document import Part, Picture, Section, Table, to_html, to_markdown
from sapl_jax.evaluation.evaluator import DatasetResult, evenly_spaced, loaded_batches
from sapl_jax.evaluation.results import pair
from sapl_jax.evaluation.session import Session
from sapl_jax.files import versions, write_atomically

log = logging.getLogger(__name__)
_LISTED = 20  # skipped files and notes listed per data set; results.json has them all
_PER_CLASS = 40  # pictures at most that give edge patches
_MAX_POINTS = 300  # edge patches shown per class: t-SNE takes quadratic time
_MIN_POINTS = 20  # below this a map of neighbourhoods shows nothing

# Table 1 of the paper: column title -> the layouts that hold that test set.
COLUMNS = {
    "CASIAv1": ("casia_v1", "casia_v1plus"), "Columbia": ("columbia",), "COVERAGE": ("coverage",),
    "IMD2020": ("imd2020",), "NIST16": ("nist16",),
}  # fmt: skip
WITHOUT_I_AUC = "NIST16"  # the paper uses its tampered half alone
TABLE_1 = (  # method, P-F1 / I-AUC per column, means
    ("WSCL (MIL-FCN)", ".172 / .829", ".270 / .920", ".178 / .584", ".193 / .733", ".110 / -",
     ".185 / .766"),
    ("M2RL-Net", ".347 / .948", ".434 / .999", ".213 / .716", ".248 / .827", ".113 / -",
     ".265 / .862"),
    ("SO-WSL", ".334 / .881", ".385 / .942", ".239 / .702", ".259 / .556", ".288 / -",
     ".301 / .770"),
    ("SAPL (paper)", ".356 / .931", ".432 / .999", ".323 / .772", ".364 / .906", ".274 / -",
     ".349 / .902"),
    ("MVSS-Net (full supervision)", ".452 / .937", ".638 / .980", ".453 / .731", ".260 / .656",
     ".292 / -", ".419 / .826"),
)  # fmt: skip


def write(session: Session, output: Path, listings: Sequence[tuple[str, Listing]] = ()) -> None:
    """Writes report.md, report.html and figures/*.png into `output`.

    listings: if the first method's detector has `edge_features`, as `Localizer`, its edge patches
    of these (name, listing) pairs are shown.
    """
    detector: Any = session.methods[0].detector
    patches = []
    try:
        for name, listing in listings if hasattr(detector, "edge_features") else ():
            if found := edge_patch_embedding(detector, listing, seed=session.seed):
                patches.append(figures.embedding(*found, name))
    except UserError as error:
        log.warning("the report has no t-SNE of edge patches: %s", error)
    calibration = getattr(detector, "calibration", None)
    rule = [calibration.rule] if calibration else []
    reliability = figures.reliability_curves(session)
    options = getattr(detector, "edge_options", DEFAULT_OPTIONS)
    parts: dict[str, Sequence[Part]] = {
        "Results": measures(session),
        "Table 1 of the paper, and ours": table_1(session),
        "ROC curves": figures.roc_curves(session),
        "Calibration": [*rule, *reliability] if reliability else [],
        "Robustness (Figure 8)": figures.robustness_curves(session),
        "Pictures, masks and heat maps (Figure 6)": figures.galleries(session),
        "Edge-patch features (Figure 7)": patches,
        "Soft edge maps (Figure 4)": figures.soft_edges(session, options),
        "Files": _files(session),
        "Provenance": provenance(session),
    }
    sections = [Section(heading, found) for heading, found in parts.items() if found]
    title = f"Evaluation of {session.methods[0].name}"
    for part in (part for section in sections for part in section.parts):
        if isinstance(part, Picture):
            write_atomically(output / "figures" / f"{part.name}.png", part.png)
    write_atomically(output / "report.md", to_markdown(title, sections))
    write_atomically(output / "report.html", to_html(title, sections))


def measures(session: Session) -> list[Part]:
    """All measures as a table and as bars, with what they mean."""
    header, *rows = (row[:-1] for row in results.rows(session))
    several = len(session.methods) > 1
    ours = {i for i, row in enumerate(rows) if row[1] == session.methods[0].name and several}
    text = (
        f"Protocol {session.protocol.name}. A dash marks a measure that is not defined: "
        f"image-level ones need both classes, pixel-level ones a mask. {results.legend(session)}"
    )
    return [text, Table(header, rows, frozenset(ours), names=2), *figures.bars(session)]


def table_1(session: Session) -> list[Part]:
    """The paper's table with a row per method that has a result on one of its test sets."""
    rows: list[Sequence[str]] = [*TABLE_1]
    for method, found in session.results.items():
        sets = {c: rs[0] for c, of in COLUMNS.items()
                if (rs := [r for r in found.values() if r.layout in of])}  # fmt: skip
        if sets:
            rows.append([f"{method} (here)", *_our_cells(sets)])
    if len(rows) == len(TABLE_1):
        return []
    parts: list[Part] = [
        "P-F1 / I-AUC. The stressed rows were measured here, the others are the paper's Table 1.",
        Table(["method", *COLUMNS, "mean"], rows, frozenset(range(len(TABLE_1), len(rows)))),
    ]
    if session.protocol.name != "sapl":
        parts.append(
            f"Measured with protocol {session.protocol.name}, published with the paper's: the rows "
            "do not compare."
        )
    incomplete = []
    for result in session.main:
        counts = (result.summary["authentic"], result.summary["tampered"])
        expected = EXPECTED.get(result.layout, counts)
        if counts != expected and any(result.layout in layouts for layouts in COLUMNS.values()):
            incomplete.append(
                f"{result.name}: {counts[0]} authentic and {counts[1]} tampered pictures instead "
                f"of {expected[0]} and {expected[1]}"
            )
    if incomplete:
        parts += ["These copies differ from the published sets:", incomplete]
    return parts


def _our_cells(found: Mapping[str, DatasetResult]) -> list[str]:
    measured: dict[str, dict] = {c: {} for c in COLUMNS}
    measured |= {c: {**r.summary, "intervals": r.intervals} for c, r in found.items()}
    measured[WITHOUT_I_AUC].pop("i_auc", None)
    mean: dict[str, float] = {}
    for measure, sets in (("p_f1", len(COLUMNS)), ("i_auc", len(COLUMNS) - 1)):
        values = [v for of in measured.values() if (v := of.get(measure)) is not None]
        if len(values) == sets:  # A mean over fewer would not compare with the paper's.
            mean[measure] = float(np.mean(values))
    return [pair(of, "p_f1", "i_auc") for of in (*measured.values(), mean)]


def _files(session: Session) -> list[Part]:
    parts: list[Part] = [f"{data}: {method}: {reason}" for data, method, reason in session.unusable]
    known: set[tuple[Path, str]] = set()
    for method, found in session.results.items():
        for result in found.values():
            for what, named in (("not evaluated", result.skipped), ("with a note", result.notes)):
                new = [entry for entry in named if entry not in known]
                known.update(new)
                items = [f"{path}: {reason}" for path, reason in new[:_LISTED]]
                if len(new) > _LISTED:
                    items.append(f"and {len(new) - _LISTED} more, see results.json")
                if new:
                    parts += [f"{result.name}, {method}, files {what}: {len(new)}.", items]
    return parts


def provenance(session: Session) -> list[Part]:
    """By what and on what it was measured."""
    items = [f"{method.name}: {'; '.join(method.source_lines())}" for method in session.methods]
    items += [
        f"{result.name}: {result.root}, read as {result.layout}, {result.summary['authentic']} "
        f"authentic, {result.summary['tampered']} tampered, {result.summary['masks']} masks; "
        f"data sha256 {result.digest}"
        for result in session.main
    ]
    return [[*items, "versions: " + ", ".join(f"{k} {v}" for k, v in versions().items())]]


def edge_patch_embedding(
    detector: Any, listing: Listing, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """t-SNE of the deepest tap's edge patches, of some pictures of each class, evenly chosen.

    `detector` has `edge_features`, as `Localizer`. Returns points float32 [n, 2] and bool [n],
    whether each is of a tampered picture; None where a class is absent or too few are usable.
    """
    chosen = []
    for label in (AUTHENTIC, TAMPERED):
        samples = [sample for sample in listing.samples if sample.label == label]
        chosen += evenly_spaced(samples, _PER_CLASS)
    features: dict[int, list[np.ndarray]] = {AUTHENTIC: [], TAMPERED: []}
    for batch in loaded_batches(chosen, batch_size=8):
        readable = [(item.image, item.sample.label) for item in batch if item.image is not None]
        if not readable:
            continue
        images, labels = zip(*readable, strict=True)
        found, usable = detector.edge_features(images, labels)
        for deepest, good, label in zip(found[:, -1], usable, labels, strict=True):
            features[label] += list(deepest[good])
    shown = [evenly_spaced(own, _MAX_POINTS) for own in features.values()]
    vectors = np.array([*shown[AUTHENTIC], *shown[TAMPERED]], np.float32)
    if len(vectors) < _MIN_POINTS or not all(shown):
        return None
    from sklearn.manifold import TSNE  # a second to import, and only reports need it
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    with threadpool_limits(1):  # On so few points threads take three times the processor time.
        points = tsne.fit_transform(vectors).astype(np.float32)
    return points, np.arange(len(points)) >= len(shown[AUTHENTIC])
