"""Parts a training set by class, seed, names and sources, and pairs pictures of one source."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipelines.listing import AUTHENTIC, TAMPERED, Sample


class Split(NamedTuple):
    """A training set parted in two, each sorted by name."""

    train: list[Sample]
    validation: list[Sample]
    shared: int  # validation pictures of which a source is in `train`, too


def split_samples(samples: Sequence[Sample], val_fraction: float, seed: int) -> Split:
    """Takes about `val_fraction` of each class for validation, at least one where a class has two.

    Which ones depends on the seed and the names only. Pictures linked by a chain of common sources
    go to the same side, so that validation shows no scene of training. Chains too large for
    validation go to training; if too little is left for a class (under half of what was asked),
    single pictures fill it and are counted in `Split.shared`. 0 <= val_fraction < 1.
    """
    wanted = {}
    for label in (AUTHENTIC, TAMPERED):
        total = sum(sample.label == label for sample in samples)
        most = total - 1 if val_fraction and total > 1 else 0
        wanted[label] = min(most, max(1, round(val_fraction * total)))
    left = dict(wanted)
    chosen: dict[str, Sample] = {}

    def take(group: Iterable[Sample]) -> None:
        for sample in group:
            chosen[sample.name] = sample
            left[sample.label] -= 1

    groups = sorted(linked_groups(samples), key=lambda group: _rank(group[0], seed))
    # Groups of both classes come first: once a class is full, none of them fits any more.
    for group in sorted(groups, key=lambda group: len({s.label for s in group}) == 1):
        if all(sum(s.label == label for s in group) <= left[label] for label in left):
            take(group)
    for label in left:
        if 2 * left[label] > wanted[label]:
            rest = [s for s in samples if s.label == label and s.name not in chosen]
            take(sorted(rest, key=lambda s: _rank(s, seed))[: left[label]])

    ordered = sorted(samples, key=lambda sample: sample.name)
    train = [sample for sample in ordered if sample.name not in chosen]
    validation = [sample for sample in ordered if sample.name in chosen]
    seen = {source for sample in train for source in sample.sources}
    shared = sum(not seen.isdisjoint(sample.sources) for sample in validation)
    return Split(train, validation, shared)


def pair_samples(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """An authentic picture for each tampered one that was made from it, (authentic, tampered).

    That is the one whose first source is the tampered picture's first. One authentic picture may
    have several; tampered ones without any are left out.
    """
    by_source = {s.sources[0]: s for s in samples if s.label == AUTHENTIC and s.sources}
    tampered = [s for s in samples if s.label == TAMPERED and s.sources]
    return [(by_source[s.sources[0]], s) for s in tampered if s.sources[0] in by_source]


def linked_groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Groups of samples connected by common sources, each sorted by name."""
    from scipy.cluster.hierarchy import DisjointSet  # slow to import, for commands that refuse

    linked = DisjointSet(source for sample in samples for source in sample.sources)
    for sample in samples:
        for source in sample.sources[1:]:
            linked.merge(sample.sources[0], source)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: s.name):
        key = f"source {linked[sample.sources[0]]}" if sample.sources else f"name {sample.name}"
        groups[key].append(sample)
    return list(groups.values())


def _rank(sample: Sample, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{sample.name}".encode()).digest()
