"""What an evaluation leaves: `results.json`, one CSV per data set, a table on the screen."""

import csv
import datetime
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sapl_jax.evaluation import intervals
from sapl_jax.evaluation.evaluator import DatasetResult
from sapl_jax.evaluation.protocols import MEASURES, PIXEL_MEASURES
from sapl_jax.evaluation.session import Method, Session
from sapl_jax.files import versions, write_atomically
from sapl_jax.metrics import expected_calibration_error

ALIKE = "\N{ALMOST EQUAL TO}"  # behind what cannot be told from the first method's number
FORMAT = 1  # of results.json; raised when a key changes its meaning
TITLES = {
    "i_auc": "I-AUC", "i_f1": "I-F1", "balanced_accuracy": "bal. acc.", "p_f1": "P-F1",
    "p_f1_best": "P-F1 best", "p_auc": "P-AUC", "p_iou": "P-IoU",
}  # fmt: skip


def probabilities(session: Session, method: Method, result: DatasetResult) -> dict[str, np.ndarray]:
    """What a method gives as image scores in [0, 1]: its "score", and "calibrated" if it can."""
    scores = result.labels_and_scores[1]
    if not np.isfinite(scores).all():
        return {}
    found = {"score": np.clip(scores, 0, 1)}
    calibration = getattr(method.detector, "calibration", None)
    if calibration is not None and session.protocol.image_score == "model":
        found["calibrated"] = calibration.probability(scores)
    return {name: values for name, values in found.items() if values is not None}


def mean_of(results: Collection[DatasetResult]) -> dict[str, float | None]:
    """Each measure's mean over the data sets that define it."""
    means: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [v for r in results if (v := r.summary[measure]) is not None]
        means[measure] = sum(values) / len(values) if values else None
    return means


def method_entry(session: Session, method: Method) -> dict[str, Any]:
    """A method's part of results.json: itself, its data sets with the files behind, its means."""
    results, datasets = session.results[method.name].values(), {}
    for result in results:
        labels, _ = result.labels_and_scores
        found = probabilities(session, method, result)
        datasets[result.name] = {
            **result.summary,
            "intervals": result.intervals,
            "calibration_error": {
                name: expected_calibration_error(labels, values) for name, values in found.items()
            },
            "layout": result.layout,
            "root": str(result.root),
            "data_sha256": result.digest,
            "seconds": round(result.seconds, 2),
            "skipped_files": [[str(path), reason] for path, reason in result.skipped],
            "notes": [[str(path), note] for path, note in result.notes],
        }
    source = {"name": method.name, **method.source}
    return {"method": source, "datasets": datasets, "mean": mean_of(results)}


def build(session: Session) -> dict[str, Any]:
    """The content of results.json; further methods stand under "peers"."""
    first, *others = (method_entry(session, method) for method in session.methods)
    for name, sweeps in session.sweeps.items():
        first["datasets"][name]["robustness"] = {
            sweep: [{"level": level, **r.summary, "intervals": r.intervals} for level, r in points]
            for sweep, points in sweeps.items()
        }
    return {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "protocol": session.protocol.name,
        "seed": session.seed,
        **first,
        "versions": versions(),
        "peers": {entry["method"]["name"]: entry for entry in others},
        "unusable": session.unusable,
        "bootstrap": {"draws": intervals.DRAWS, "coverage": intervals.COVERAGE},
        "comparisons": {
            name: [{"first": a, "second": b, "measures": found} for (a, b), found in pairs.items()]
            for name, pairs in session.comparisons.items()
        },
    }


def write_images_csv(path: Path, result: DatasetResult) -> None:
    """Writes one row per picture: name, label, score, size, and its pixel measures."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "label", "score", "height", "width", *PIXEL_MEASURES])
    for record in result.records:
        scores = record.scores
        measures = [getattr(scores, measure) for measure in PIXEL_MEASURES]
        writer.writerow([record.name, scores.label, scores.score, *record.size, *measures])
    write_atomically(path, text.getvalue())


def number(value: float | None) -> str:
    """A measure as the papers print it: .912, 1.000, or a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}".removeprefix("0").replace("-0.", "-.")


def cell(value: float | None, interval: Sequence[float] | None) -> str:
    """A measure with its bootstrap interval: .464 [.431, .498]."""
    return number(value) + ("" if value is None or interval is None else f" {_bounds(interval)}")


def _bounds(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"[{number(interval[0])}, {number(interval[1])}]"


def pair(found: Mapping[str, Any], first: str, second: str) -> str:
    """Two measures of a summary, then their "intervals" if it has any: .464 / .9 [.4, .5] / -."""
    values = [found.get(measure) for measure in (first, second)]
    bounds = [found.get("intervals", {}).get(measure) for measure in (first, second)]
    parts = [map(number, values), map(_bounds, bounds) if any(bounds) else ()]
    return "-" if values == [None, None] else " ".join(filter(None, map(" / ".join, parts)))


def rows(session: Session) -> list[list[str]]:
    """Header and a row per method and data set: names, counts, measures with their intervals."""
    found = [["data set", "method", "images", "masks", *(TITLES[m] for m in MEASURES), "skipped"]]
    for method, results in session.results.items():
        for result in results.values():
            pairs = session.comparisons.get(result.name, {})
            beside = pairs.get((session.methods[0].name, method), {})
            cells = [
                cell(result.summary[m], result.intervals.get(m))
                + ALIKE * (m in beside and not beside[m]["apart"])
                for m in MEASURES
            ]
            counts = [str(result.summary[k]) for k in ("images", "masks", "skipped")]
            found.append([result.name, method, *counts[:2], *cells, counts[2]])
        if len(results) > 1:
            cells = []
            for m, mean in mean_of(results.values()).items():
                draws = [r.draws[m] for r in results.values() if r.summary[m] is not None]
                bounds = intervals.interval(np.mean(draws, axis=0) if draws else None)
                cells.append(cell(mean, bounds))
            found.append(["mean", method, "", "", *cells, ""])
    return found


def legend(session: Session) -> str:
    """What brackets and marks in the rows mean."""
    text = (
        f"In brackets: the middle {intervals.COVERAGE:.0%} of {intervals.DRAWS:,} data sets drawn "
        "from the pictures, each class on its own (too narrow where a class has under 20)."
    )
    if len(session.methods) > 1:
        text += (
            f" {ALIKE}: cannot be told from {session.methods[0].name} on the same pictures, the "
            f"{intervals.COVERAGE:.0%} interval of the difference has 0; results.json has every "
            "pair, with the share of draws in which each is ahead. Means are not compared."
        )
    return text


def table(session: Session) -> str:
    """The measures of all methods on all data sets, as a table for the screen."""
    header, *found = rows(session)
    rule = ["-" * max(map(len, column)) for column in zip(header, *found, strict=True)]
    return "\n".join([*aligned([header, rule, *found], names=2), legend(session)])


def aligned(rows: Sequence[Sequence[str]], names: int) -> list[str]:
    """Lines of equally wide columns; the first `names` begin on the left, the others end right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
