"""The demo's evaluation and report: SAPL against trivial predictors on held-out pictures."""

from pathlib import Path

from data_pipelines.readers import read_dataset
from sapl_jax import files
from sapl_jax.demo.illustrations import best_and_worst, case_figure, read_metrics, training_curves
from sapl_jax.evaluation import figures, protocols, results
from sapl_jax.evaluation.document import Picture, Section, Table, to_html
from sapl_jax.evaluation.floors import floors
from sapl_jax.evaluation.session import Method, Session, run
from sapl_jax.inference.localizer import Localizer

_NAME = "held-out"
_CASES = 4  # best and as many worst pictures
_MEASURES = ("i_auc", "p_f1", "p_f1_best", "p_auc", "p_iou", "i_f1", "balanced_accuracy")
# The figures the demo is meant to reach.
_GOAL_I_AUC, _GOAL_P_F1 = 0.90, 0.45


def evaluate_and_report(run_dir: Path, data: Path, output: Path) -> str:
    """Evaluates the run and the trivial predictors on `data`, and writes what was found.

    Into `output`: report.html, results.json, best.png and worst.png (pictures by their P-F1).

    Returns:
        The same numbers as text for the screen.

    Raises:
        UserError: no checkpoint in the run, or pictures that cannot be read.
    """
    localizer = Localizer.load(run_dir)
    methods = [Method("SAPL", localizer, localizer.source), *floors()]
    listing = read_dataset("folder", data)
    session = run(
        methods,
        [(_NAME, listing)],
        protocols.get_protocol(protocols.DEFAULT),
        batch_size=localizer.batch_size,
        gallery_size=0,
    )
    files.write_json(output / "results.json", results.build(session))

    kinds = _by_kind(session)
    sections = [_measures(session), Section("SAPL by kind of forgery", [kinds])]
    sections += _curves(run_dir / "metrics.jsonl")
    sections += _roc(session)
    threshold = localizer.config.model.heat_map.threshold
    best, worst = best_and_worst(localizer, listing, session.main[0], _CASES)
    for title, cases in (("Best pictures", best), ("Worst pictures", worst)):
        png = case_figure(cases, localizer.edge_options, threshold)
        if png is not None:
            name = title.split()[0].lower()
            caption = f"{title} by P-F1 of {len(session.main[0].records)} held-out pictures."
            sections.append(Section(title, [Picture(name, png, caption)]))
            (output / f"{name}.png").write_bytes(png)
    sections.append(_provenance(session))
    files.write_atomically(output / "report.html", to_html("SAPL: the demo", sections))
    lines = results.aligned([kinds.header, *kinds.rows], names=len(kinds.header))
    return "\n".join([results.table(session), "", *lines, "", *_verdicts(session)])


def _measures(session: Session) -> Section:
    header = ["method", *(results.TITLES[measure] for measure in _MEASURES)]
    rows = []
    for method in session.methods:
        (found,) = session.results[method.name]
        cells = [results.cell(found.summary[m], found.intervals.get(m)) for m in _MEASURES]
        rows.append([method.name, *cells])
    summary = session.main[0].summary
    text = (
        f"{summary['authentic']} authentic and {summary['tampered']} tampered pictures that share "
        f"no source with the training pictures; protocol {session.protocol.name} (P-F1 at 0.5, "
        "tampered pictures only)."
    )
    return Section("Results", [text, Table(header, rows, frozenset({0})), _verdicts(session)])


def _verdicts(session: Session) -> list[str]:
    """The goals, reached or not."""
    ours = session.main[0].summary
    everything = session.results["everything tampered"][0].summary
    i_auc, p_f1, all_f1 = ours["i_auc"] or 0.0, ours["p_f1"] or 0.0, everything["p_f1"] or 0.0
    goals = [
        (i_auc >= _GOAL_I_AUC, f"I-AUC {i_auc:.3f}, goal at least {_GOAL_I_AUC:.2f}"),
        (p_f1 >= _GOAL_P_F1, f"P-F1 {p_f1:.3f}, goal at least {_GOAL_P_F1:.2f}"),
        (
            p_f1 >= 2 * all_f1,
            f"P-F1 {p_f1:.3f}, goal at least twice everything tampered, {2 * all_f1:.3f}",
        ),
    ]
    return [f"{'reached' if reached else 'not reached'}: {text}" for reached, text in goals]


def _by_kind(session: Session) -> Table:
    """P-F1 by kind of forgery, which the generator writes into the file names."""
    header, rows = ["kind", "pictures", "P-F1", "mean score"], []
    groups: dict[str, list] = {}
    for record in session.main[0].records:
        groups.setdefault(record.path.stem.split("_", 1)[-1], []).append(record.scores)
    for kind, scores in sorted(groups.items()):
        f1 = [s.p_f1 for s in scores if s.p_f1 is not None]
        rows.append(
            [
                kind, str(len(scores)),
                results.number(sum(f1) / len(f1) if f1 and kind != "authentic" else None),
                results.number(sum(s.score for s in scores) / len(scores)),
            ]
        )  # fmt: skip
    return Table(header, rows)


def _curves(path: Path) -> list[Section]:
    png = training_curves(read_metrics(path))
    return [Section("Training", [Picture("training", png, "Training curves.")])] if png else []


def _roc(session: Session) -> list[Section]:
    curves = {m.name: session.results[m.name][0].labels_and_scores for m in session.methods}
    png = figures.roc_curves({_NAME: curves})
    return [Section("ROC", [Picture("roc", png, "ROC of the image scores.")])] if png else []


def _provenance(session: Session) -> Section:
    source = session.methods[0].source_lines()
    versions = ", ".join(f"{name} {version}" for name, version in files.versions().items())
    return Section("Provenance", [[*source, f"data sha256: {session.main[0].digest}", versions]])
