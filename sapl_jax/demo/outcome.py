"""The demo's evaluation and report: SAPL against trivial predictors on held-out pictures."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.generator.photographs import one_of_each_kind
from data_pipelines.images import decode_image
from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import EdgeOptions, soft_edge_map
from sapl_jax import files
from sapl_jax.evaluation import figures, protocols, report, results
from sapl_jax.evaluation.document import Part, Picture, Section, Table, to_html
from sapl_jax.evaluation.evaluator import DatasetResult, Record, Shown, load_sample
from sapl_jax.evaluation.figures import Panel
from sapl_jax.evaluation.session import Method, Session, floors, run
from sapl_jax.inference.detector import Detector
from sapl_jax.inference.localizer import Localizer
from sapl_jax.inference.opening import SHIPPED

_NAME = "held-out"
_CASES = 4  # best and as many worst pictures
# The figures the demo is meant to reach.
_GOAL_I_AUC, _GOAL_P_F1 = 0.90, 0.45
PANELS = {  # title -> names in metrics.jsonl
    "total loss": ("loss",),
    "parts of the loss": ("loss_cls", "loss_background", "loss_hecl"),
    "validation I-AUC": ("val_i_auc",),
}
_ON_PHOTOGRAPHS = (
    "Forged when this report was made, so the truth is known. Not by the demo's model, which saw "
    "generated pictures only, but by the one that predict uses without --checkpoint."
)
_SMOOTHED = 15  # lines of the log that one drawn point averages at most


def evaluate_and_report(run_dir: Path, data: Path, output: Path) -> str:
    """Evaluates the run and the trivial predictors on `data`, and writes what was found.

    Into `output`: report.html, results.json, best.png and worst.png (pictures by their P-F1).
    Returns the same numbers as text for the screen.

    Raises:
        UserError: no checkpoint in the run, or pictures that cannot be read.
    """
    localizer = Localizer.load(run_dir)
    methods = [Method("SAPL", localizer, localizer.source), *floors()]
    listing, protocol = read_dataset("folder", data), protocols.PROTOCOLS[protocols.DEFAULT]
    size = localizer.batch_size
    session = run(methods, [(_NAME, listing)], protocol, batch_size=size, gallery_size=0)
    files.write_json(output / "results.json", results.build(session))

    kinds, verdicts, ours = _by_kind(session), _verdicts(session), session.main[0]
    parts: dict[str, Sequence[Part]] = {
        "Results": [
            "The pictures share no source with the training pictures.", *report.measures(session),
            verdicts,
        ],
        "SAPL by kind of forgery": [kinds],
        "Training": training_curves(read_metrics(run_dir / "metrics.jsonl")),
        "ROC": figures.roc_curves(session, floors=True),
    }  # fmt: skip
    for title, records in best_and_worst(localizer, listing, ours, _CASES).items():
        rows = [case(record, localizer.edge_options, localizer.threshold) for record in records]
        caption = f"{title} by P-F1 of {len(ours.records)} held-out pictures."
        parts[title] = shown = figures.pictures(title.split()[0].lower(), rows, caption)
        for picture in shown:
            (output / f"{picture.name}.png").write_bytes(picture.png)
    rows = list(on_photographs(Localizer.load(SHIPPED)).values())
    parts["On real photographs"] = figures.pictures("photographs", rows, _ON_PHOTOGRAPHS)
    parts["Provenance"] = report.provenance(session)
    sections = [Section(title, found) for title, found in parts.items() if found]
    files.write_atomically(output / "report.html", to_html("SAPL: the demo", sections))
    lines = results.aligned([kinds.header, *kinds.rows], names=len(kinds.header))
    return "\n".join([results.table(session), "", *lines, "", *verdicts])


def _verdicts(session: Session) -> list[str]:
    """The goals, reached or not."""
    ours, everything = session.on(_NAME)["SAPL"], session.on(_NAME)["everything tampered"]
    i_auc, p_f1 = ours.summary["i_auc"] or 0.0, ours.summary["p_f1"] or 0.0
    twice = 2 * (everything.summary["p_f1"] or 0.0)
    goals = {
        f"I-AUC {i_auc:.3f}, goal at least {_GOAL_I_AUC:.2f}": i_auc >= _GOAL_I_AUC,
        f"P-F1 {p_f1:.3f}, goal at least {_GOAL_P_F1:.2f}": p_f1 >= _GOAL_P_F1,
        f"P-F1 {p_f1:.3f}, goal at least twice everything tampered, {twice:.3f}": p_f1 >= twice,
    }
    return [f"{'reached' if reached else 'not reached'}: {text}" for text, reached in goals.items()]


def _by_kind(session: Session) -> Table:
    """P-F1 by kind of forgery, which the generator writes into the file names."""
    rows = []
    groups: dict[str, list] = {}
    for record in session.main[0].records:
        groups.setdefault(record.path.stem.split("_", 1)[-1], []).append(record.scores)
    for kind, scores in sorted(groups.items()):
        f1 = [s.p_f1 for s in scores if s.p_f1 is not None]
        mean_f1 = results.number(sum(f1) / len(f1) if f1 and kind != "authentic" else None)
        mean_score = results.number(sum(s.score for s in scores) / len(scores))
        rows.append([kind, str(len(scores)), mean_f1, mean_score])
    return Table(["kind", "pictures", "P-F1", "mean score"], rows)


def best_and_worst(
    detector: Detector, listing: Listing, result: DatasetResult, count: int
) -> dict[str, list[Record]]:
    """The `count` tampered pictures of highest and of lowest P-F1, best and worst first."""
    scored = [r for r in result.records if r.scores.label == TAMPERED and r.scores.p_f1 is not None]
    ranked = sorted(scored, key=lambda record: (-float(record.scores.p_f1 or 0.0), record.name))
    count = min(count, len(ranked) // 2)
    samples = {sample.name: sample for sample in listing.samples}
    found: dict[str, list[Record]] = {"Best pictures": [], "Worst pictures": []}
    for records, cases in zip((ranked, ranked[::-1]), found.values(), strict=True):
        for record in records[:count]:
            loaded = load_sample(samples[record.name])
            if loaded.image is not None and loaded.mask is not None:  # Else gone since then.
                (analysis,) = detector.analyse([loaded.image])
                cases.append(dataclasses.replace(record, shown=Shown.of(loaded, analysis)))
    return found


def on_photographs(localizer: Localizer) -> dict[str, dict[str, Panel]]:
    """scikit-learn's two photographs, one as it is and, forged now, one forgery of each kind.

    By kind, "authentic" first, what `case` shows; the model's score stands below the picture.
    """
    protocol = protocols.PROTOCOLS[protocols.DEFAULT]
    threshold = localizer.config.model.heat_map.threshold  # That of the F1, not a calibration's.
    rows: dict[str, dict[str, Panel]] = {}
    for example in one_of_each_kind(0, localizer.geometry.size):
        image = decode_image(example.jpeg, example.kind)
        (found,) = localizer.analyse([image])
        label = AUTHENTIC if example.mask is None else TAMPERED
        scores = protocols.score_image(protocol, label, found.score, found.heat_map, example.mask)
        truth = np.zeros(image.shape[:2], bool) if example.mask is None else example.mask > 127
        shown = Shown(image, truth, found.heat_map)
        record = Record(example.kind, Path(example.kind), image.shape[:2], scores, shown)
        picture = Panel(image, note=f"{example.kind}, score {found.score:.2f}")
        rows[example.kind] = case(record, localizer.edge_options, threshold) | {"picture": picture}
    return rows


def case(record: Record, options: EdgeOptions, threshold: float) -> dict[str, Panel]:
    """What is shown of a picture: itself, its soft edge map, what was found and the truth."""
    assert (shown := record.shown) is not None
    return {
        "picture": Panel(shown.image),
        "soft edge map": Panel(soft_edge_map(shown.image, options), "magma"),
        "heat map": Panel(shown.heat_map, "inferno"),
        "mask": Panel(shown.heat_map > threshold, note=f"F1 {results.number(record.scores.p_f1)}"),
        "ground truth": Panel(shown.mask),
    }


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (steps, values) of a finished run's `metrics.jsonl`."""
    points: dict[str, list[tuple[float, float]]] = {}
    for values in map(json.loads, path.read_text().splitlines()):
        for name, value in values.items():
            if name != "step":
                points.setdefault(name, []).append((values["step"], value))
    return {name: (np.array(p)[:, 0], np.array(p)[:, 1]) for name, p in points.items()}


def training_curves(metrics: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Picture]:
    """Loss, its parts and the validation's I-AUC against the step; none without numbers."""
    shown = {name: curve for name, curve in metrics.items() if np.any(curve[1])}
    found = {t: {n: shown[n] for n in names if n in shown} for t, names in PANELS.items()}
    panels = [(title, curves) for title, curves in found.items() if curves]
    if not panels:
        return []
    figure, axes = figures.grid(len(panels), len(panels), 4, 3)
    for axis, (title, curves) in zip(axes, panels, strict=True):
        for colour, (name, (steps, values)) in zip(figures.COLOURS, curves.items(), strict=False):
            width = min(_SMOOTHED, max(1, len(values) // 8))
            if name == "val_i_auc" or width == 1:
                axis.plot(steps, values, color=colour, marker="o", markersize=3, label=name)
                continue
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axis.plot(steps[width - 1 :], smooth, color=colour, label=name)
        axis.set(title=title, xlabel="step")
        axis.grid(axis="y", color="0.9")
        if len(curves) > 1:
            axis.legend(fontsize=8, frameon=False)
    return [figures.drawn("training", figure, "Training curves.")]
