"""One evaluation from end to end: every method on every data set, the sweeps, what is kept."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.listing import TAMPERED, Listing
from sapl_jax.errors import UserError
from sapl_jax.evaluation import intervals
from sapl_jax.evaluation.baselines import TRIVIAL
from sapl_jax.evaluation.evaluator import DatasetResult, evaluate_dataset, evenly_spaced
from sapl_jax.evaluation.map_folders import MapFolder
from sapl_jax.evaluation.perturbations import Sweep, perturbation
from sapl_jax.evaluation.protocols import Protocol
from sapl_jax.inference.detector import Detector

Point = tuple[int | None, DatasetResult]  # of a sweep


@dataclasses.dataclass(frozen=True)
class Method:
    """What is evaluated.

    source: where it comes from, for the report (checkpoint, hashes, ...). floor: a trivial
    predictor, which stands in the tables and in no figure.
    """

    name: str
    detector: Detector | MapFolder
    source: Mapping[str, Any]
    floor: bool = False

    def source_lines(self) -> list[str]:
        """The source as "key: value" lines; a mapping in it as "key: value, value, ..."."""
        lines = []
        for key, value in self.source.items():
            if isinstance(value, Mapping):
                value = ", ".join(str(part) for part in value.values() if part is not None)
            lines.append(f"{key}: {value}")
        return lines


def floors() -> list[Method]:
    """The trivial predictors as methods."""
    return [Method(n, found, {"training": "none"}, floor=True) for n, found in TRIVIAL.items()]


@dataclasses.dataclass
class Session:
    """All results of one command. The first method is the one the report is about.

    results: per method and data set. sweeps: per data set and sweep, the first method's (level,
    result); the clean picture's, of level None, first. unusable: (data set, method, reason) of
    folders of maps that fit no picture. comparisons: per data set and pair of methods, see
    `intervals.compare`.
    """

    protocol: Protocol
    methods: list[Method]
    seed: int = 0
    results: dict[str, dict[str, DatasetResult]] = dataclasses.field(default_factory=dict)
    sweeps: dict[str, dict[str, list[Point]]] = dataclasses.field(default_factory=dict)
    unusable: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    comparisons: dict[str, dict[tuple[str, str], dict[str, dict[str, Any]]]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self.results = {method.name: {} for method in self.methods}

    def on(self, dataset: str) -> dict[str, DatasetResult]:
        """The methods' results on a data set."""
        return {name: found[dataset] for name, found in self.results.items() if dataset in found}

    @property
    def main(self) -> list[DatasetResult]:
        """The first method's results."""
        return list(self.results[self.methods[0].name].values())

    @property
    def datasets(self) -> list[str]:
        """The data sets that any method has results on, in order."""
        return list(dict.fromkeys(name for found in self.results.values() for name in found))


def run(
    methods: Sequence[Method],
    listings: Sequence[tuple[str, Listing]],
    protocol: Protocol,
    *,
    sweeps: Sequence[Sweep] = (),
    seed: int = 0,
    batch_size: int = 8,
    gallery_size: int = 6,
    after_each: Callable[[Session, Method | None], None] = lambda session, method: None,
) -> Session:
    """Evaluates the methods on the data sets, then the first method under each sweep.

    A folder of maps that fits no picture of a data set is noted, and the run goes on.

    Args:
        gallery_size: tampered pictures of each data set, with a mask where any has one, that are
            kept for figures; chosen by position, never by how well a method does on them.
        after_each: called with the session so far and the method whose result is new (None after a
            level of a sweep), so that the caller can save what is done.

    Raises:
        UserError: no picture of a data set can be used, or the first method has no result at all.
    """
    session = Session(protocol, list(methods), seed)
    for name, listing in listings:
        evaluate = functools.partial(
            evaluate_dataset, listing=listing, protocol=protocol, batch_size=batch_size, label=name
        )
        tampered = [sample for sample in listing.samples if sample.label == TAMPERED]
        masked = [sample for sample in tampered if sample.mask is not None]
        gallery = {sample.name for sample in evenly_spaced(masked or tampered, gallery_size)}
        for method in methods:
            keep = set() if method.floor else gallery
            try:
                result = evaluate(method.detector, title=f"{name}: {method.name}", keep=keep)
            except UserError as error:
                if not isinstance(method.detector, MapFolder):
                    raise
                session.unusable.append((name, method.name, str(error)))
                continue
            pairs, own = session.comparisons.setdefault(name, {}), (result.scores, result.draws)
            for other, before in session.on(name).items():
                theirs = (before.scores, before.draws)
                pairs[other, method.name] = intervals.compare(protocol, theirs, own)
            session.results[method.name][name] = result
            after_each(session, method)
        for sweep in sweeps:
            points: list[Point] = [(None, session.main[-1])]
            session.sweeps.setdefault(name, {})[sweep.name] = points
            for level in sweep.levels:
                change, title = perturbation(sweep, level, seed), f"{name}: {sweep.name} {level}"
                result = evaluate(methods[0].detector, title=title, perturbation=change)
                points.append((level, result))
                after_each(session, None)
    if not session.main:
        raise UserError("; ".join(reason for _, _, reason in session.unusable))
    return session
