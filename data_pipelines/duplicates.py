"""Finds byte-identical pictures, inside a data set or between a test and a training set."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data_pipelines.listing import Listing
from sapl_jax.files import file_sha256


def _by_size(paths: Iterable[Path]) -> dict[int, list[Path]]:
    found = defaultdict(list)
    for path in paths:
        if path.is_file() and os.access(path, os.R_OK):
            found[path.stat().st_size].append(path)
    return found


def identical_groups(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of two or more files with the same bytes, each sorted; only equal sizes are hashed."""
    groups = defaultdict(list)
    for same_size in _by_size(paths).values():
        for path in same_size if len(same_size) > 1 else ():
            groups[file_sha256(path)].append(path)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def identical_across(paths: Iterable[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """For each of `paths` whose bytes one of `others` has: that other file. Sorted."""
    found = {}
    candidates = _by_size(others)
    for size, same_size in _by_size(paths).items():
        hashed = {file_sha256(other): other for other in candidates.get(size, ())}
        for path in same_size if hashed else ():
            if (same := hashed.get(file_sha256(path))) is not None:
                found[path] = same
    return dict(sorted(found.items()))


def without_training_pictures(listing: Listing, training: Listing) -> Listing:
    """The listing without pictures that the training set has too; these are listed as skipped."""
    tested, known = ([sample.image for sample in one.samples] for one in (listing, training))
    same = identical_across(tested, known)
    found = [(p, f"byte-identical to {other} of the training set") for p, other in same.items()]
    kept = [sample for sample in listing.samples if sample.image not in same]
    return replace(listing, samples=kept, skipped=listing.skipped + found)
