"""Runs a detector over a data set and gathers what the protocol measures, in bounded memory.

Pictures are decoded in background threads, so that the detector waits for no file, and scored in
others while it works on the next batch; a batch, and what is not yet scored, stays under 128
megapixels (or is one picture, if that is larger), what is read ahead under that and four pictures.

A file that cannot be used is a message and a count, never the end of the run.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.images import decode_image, oddities, read_bytes
from data_pipelines.listing import TAMPERED, Listing, Outlines, Sample
from data_pipelines.masks import SUSPECT, load_mask, looks_inverted
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.read_ahead import batches_ahead
from sapl_jax.errors import UserError
from sapl_jax.evaluation import intervals, protocols
from sapl_jax.evaluation.map_folders import MapFolder
from sapl_jax.files import sha256_of
from sapl_jax.inference.detector import Detector, Result, is_finite
from sapl_jax.inference.drawing import shrink

MAX_PIXELS = 128_000_000  # decoded pixels waiting for or inside one call of the detector
SIDE = 512  # longer side of a picture that is kept for figures, in pixels
_SCORERS = 4

Perturbation = Callable[[np.ndarray, str], np.ndarray]


@dataclasses.dataclass
class Loaded:
    """A sample whose files have been read; problems: what was wrong with them, digest: their hash.

    image: uint8 RGB [H, W, 3] as the detector sees it, None if unreadable. mask: uint8 [H, W],
    255 = tampered, or None.
    """

    sample: Sample
    image: np.ndarray | None
    mask: np.ndarray | None
    problems: list[str]
    digest: str

    @property
    def pixels(self) -> int:
        """Number of the picture's pixels, 0 if it is unreadable."""
        return 0 if self.image is None else self.image[..., 0].size


class Shown(NamedTuple):
    """A picture for figures, at most SIDE pixels a side: uint8 RGB, bool mask, float32 map."""

    image: np.ndarray
    mask: np.ndarray | None
    heat_map: np.ndarray

    @classmethod
    def of(cls, loaded: Loaded, analysis: Result) -> "Shown":
        """What a sample and its analysis show."""
        assert loaded.image is not None
        mask = None if loaded.mask is None else shrink(loaded.mask, SIDE) > 127
        return cls(shrink(loaded.image, SIDE), mask, shrink(analysis.heat_map, SIDE))


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture's row of the results. path: the picture. size: (height, width) in pixels."""

    name: str
    path: Path
    size: tuple[int, int]
    scores: protocols.ImageScores
    shown: Shown | None = None


@dataclasses.dataclass
class DatasetResult:
    """All that one data set gave.

    summary: measures and counts, see `protocols.summarise`. skipped: pictures that were not
    evaluated, with the reason. notes: pictures that were, with something to know about them.
    digest: hash of every file's name and bytes, to tell whether two reports saw the same data.
    scores: by the pictures' names. draws: of data sets drawn from this one, `intervals.bootstrap`.
    """

    name: str
    layout: str
    root: Path
    summary: dict[str, float | int | None]
    records: list[Record]
    skipped: list[tuple[Path, str]]
    notes: list[tuple[Path, str]]
    digest: str
    seconds: float
    scores: dict[str, protocols.ImageScores]
    draws: intervals.Draws

    @property
    def labels_and_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels int [N] and image scores float64 [N] of the pictures, in order."""
        images = self.scores.values()
        return np.array([i.label for i in images], int), np.array([i.score for i in images], float)

    @functools.cached_property
    def intervals(self) -> dict[str, list[float]]:
        """The bootstrap interval [low, high] of each measure that is defined."""
        return {m: found for m, d in self.draws.items() if (found := intervals.interval(d))}


def evenly_spaced(samples: list, count: int) -> list:
    """`count` of the samples (all, if there are fewer), spread evenly over their order."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples)))
    return [samples[round(place)] for place in places]


def load_sample(sample: Sample, perturbation: Perturbation | None = None) -> Loaded:
    """Reads a sample's picture and, for a tampered one, its mask; problems are kept, not raised.

    The perturbation is applied to the picture last of all.
    """
    problems: list[str] = []
    image, mask, hashes = None, None, [sample.name]
    try:
        data = read_bytes(sample.image)
        hashes.append(sha256_of(data))
        image = decode_image(data, sample.image)
        problems += oddities(data)
    except UserError as error:
        problems.append(str(error).removeprefix(f"{sample.image}: "))
    if image is not None and sample.label == TAMPERED and sample.mask is not None:
        try:
            style = sample.mask_style
            drawn = isinstance(style, Outlines)
            hashes.append(sha256_of(repr(style).encode() if drawn else read_bytes(sample.mask)))
            mask, note = load_mask(sample.mask, image, style)
            problems += [note] if note else []
            if not (mask > 127).any():
                problems.append(f"mask {sample.mask} has no tampered pixel, none above 127")
            elif (mask > 127).mean() > SUSPECT:
                problems.append(f"mask {sample.mask} marks over 90 %: inverted, or of alpha?")
        except UserError as error:
            problems.append(f"not in the pixel measures: {error}")
    if image is not None and perturbation is not None:
        try:
            image = perturbation(image, sample.name)
        except UserError as error:
            image, problems = None, [str(error)]
    return Loaded(sample, image, mask, problems, sha256_of(os.fsencode("\n".join(hashes))))


def loaded_batches(
    samples: Sequence[Sample], batch_size: int, perturbation: Perturbation | None = None
) -> Iterator[list[Loaded]]:
    """The samples in order, `batch_size` pictures at a time, read ahead by threads."""
    load = functools.partial(load_sample, perturbation=perturbation)
    return batches_ahead(load, samples, batch_size, MAX_PIXELS, lambda loaded: loaded.pixels)


def evaluate_dataset(
    detector: Detector | MapFolder,
    listing: Listing,
    protocol: protocols.Protocol,
    *,
    batch_size: int = 8,
    label: str | None = None,
    title: str | None = None,
    perturbation: Perturbation | None = None,
    keep: Collection[str] = (),
) -> DatasetResult:
    """Evaluates a detector on every picture of a listing.

    Args:
        label: name of the data set in the results (the listing's by default).
        perturbation: applied to each picture before the detector sees it, called with the picture
            and the sample's name; it must keep the size.
        keep: names of pictures to keep for figures.

    Raises:
        UserError: no picture of the listing can be used.
    """
    start = time.monotonic()
    label = label or listing.name
    records: list[Record] = []
    shares: list[float] = []  # that masks mark
    skipped = list(listing.skipped)
    notes: list[tuple[Path, str]] = [(listing.root, note) for note in listing.notes]
    if isinstance(detector, MapFolder):
        notes += [(listing.root, note) for note in detector.assign(listing, label)]
    digest = hashlib.sha256()
    pending: list[tuple[Loaded, Result, concurrent.futures.Future[protocols.ImageScores]]] = []

    def collect() -> None:
        for item, analysis, future in pending:
            scores = future.result()
            sample, (height, width) = item.sample, analysis.heat_map.shape
            shown = Shown.of(item, analysis) if sample.name in keep else None
            records.append(Record(sample.name, sample.image, (height, width), scores, shown))
        pending.clear()

    with (
        ProgressBar(total=len(listing.samples), desc=title or label, unit="image") as bar,
        concurrent.futures.ThreadPoolExecutor(_SCORERS) as pool,
    ):
        for batch in loaded_batches(listing.samples, batch_size, perturbation):
            for item in batch:
                digest.update(item.digest.encode())
                found = skipped if item.image is None else notes
                found.extend((item.sample.image, problem) for problem in item.problems)
            readable = [item for item in batch if item.image is not None]
            shares += [(m > 127).mean() for item in readable if (m := item.mask) is not None]
            held = readable + [item for item, _, _ in pending]
            if sum(item.pixels for item in held) > MAX_PIXELS:
                collect()
            analyses = _analyse(detector, readable, notes)
            collect()  # the batch before, which threads scored while the detector worked
            for item, analysis in zip(readable, analyses, strict=True):
                if isinstance(analysis, str):
                    skipped.append((item.sample.image, analysis))
                    continue
                arguments = (item.sample.label, analysis.score, analysis.heat_map, item.mask)
                future = pool.submit(protocols.score_image, protocol, *arguments)
                pending.append((item, analysis, future))
            bar.update(len(batch))
        collect()
    if unscored := sum(math.isnan(record.scores.score) for record in records):
        reason = f"{unscored} of {len(records)} pictures have no score: no image-level measures"
        notes.append((listing.root, reason))
    if inverted := looks_inverted(shares):
        notes.append((listing.root, inverted))
    tampered = [sample for sample in listing.samples if sample.label == TAMPERED]
    lacking = [(s.image, "has no mask: not in the pixel measures") for s in tampered if not s.mask]
    if tampered and len(lacking) == len(tampered):
        lacking = [(listing.root, "no tampered picture has a mask: no pixel measures")]
    notes += lacking  # Last, so that they do not hide the other notes.
    if not records:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        raise UserError(f"{label}: none of {listing.root}'s pictures can be used ({reasons})")
    scores = {record.name: record.scores for record in records}
    summary = protocols.summarise(protocol, list(scores.values()))
    summary |= {"skipped": len(skipped), "noted": len(notes)}
    draws = intervals.bootstrap(protocol, scores)
    return DatasetResult(
        label, listing.name, listing.root, summary, records, skipped, notes, digest.hexdigest(),
        time.monotonic() - start, scores, draws,
    )  # fmt: skip


def _analyse(
    detector: Detector | MapFolder, items: Sequence[Loaded], notes: list[tuple[Path, str]]
) -> list[Result | str]:
    """What a method says of each picture, or why that cannot be used."""
    images = [item.image for item in items if item.image is not None]
    if not isinstance(detector, MapFolder):
        found = detector.analyse(images) if images else []
        reason = "the method gave a score or map that is not finite"
        return [analysis if is_finite(analysis) else reason for analysis in found]
    answers: list[Result | str] = []
    for item, image in zip(items, images, strict=True):
        try:
            answer, said = detector.read(item.sample, image.shape[:2])
            answers.append(answer)
            notes += [(item.sample.image, note) for note in said]
        except UserError as error:
            answers.append(str(error))
    return answers
