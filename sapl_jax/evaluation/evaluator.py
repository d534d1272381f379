"""Runs a detector over a data set and gathers what the protocol measures, in bounded memory.

Pictures are decoded in background threads, so that the detector waits for
no file, and scored in others while it works on the next batch; a batch, and what is read ahead or
not yet scored, stays under 128 megapixels each (or is one picture, if that is larger).

A file that cannot be used is a message and a count, never the end of the run.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipelines.images import decode_image, oddities, read_bytes
from data_pipelines.listing import TAMPERED, Listing, Sample
from data_pipelines.masks import load_mask
from sapl_jax.errors import UserError
from sapl_jax.evaluation import protocols
from sapl_jax.files import sha256_of
from sapl_jax.inference.detector import Detector, Result

MAX_PIXELS = 128_000_000  # decoded pixels waiting for or inside one call of the detector
_NO_MASK = "has no mask: not in the pixel measures"
_READERS = 4
_SCORERS = 4


Perturbation = Callable[[np.ndarray, str], np.ndarray]


@dataclasses.dataclass
class Loaded:
    """A sample whose files have been read.

    Attributes:
        image: uint8 RGB [H, W, 3] as the detector sees it, None if unreadable.
        mask: uint8 [H, W], 255 = tampered, or None.
        problems: what was wrong with its files.
        digest: hash of their bytes.
    """

    sample: Sample
    image: np.ndarray | None
    mask: np.ndarray | None
    problems: list[str]
    digest: str


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture's row of the results. path: the picture. size: (height, width) in pixels."""

    name: str
    path: Path
    size: tuple[int, int]
    scores: protocols.ImageScores


@dataclasses.dataclass
class DatasetResult:
    """All that one data set gave.

    Attributes:
        summary: measures and counts, see `protocols.summarise`.
        skipped: pictures that were not evaluated, with the reason.
        notes: pictures that were, with something to know about them.
        digest: hash of every file's name and bytes, to tell whether two reports saw the same data.
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


Observer = Callable[[Loaded, Any, protocols.ImageScores], None]


def load_sample(sample: Sample, perturbation: Perturbation | None = None) -> Loaded:
    """Reads a sample's picture and, for a tampered one, its mask; problems are kept, not raised.

    Args:
        perturbation: applied to the picture last of all.
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
            hashes.append(sha256_of(read_bytes(sample.mask)))
            fitted = load_mask(sample.mask, image, sample.mask_style)
        except UserError as error:
            problems.append(f"not in the pixel measures: {error}")
        else:
            mask = fitted.grey
            if fitted.note:
                problems.append(fitted.note)
            if not mask.any():
                problems.append(f"mask {sample.mask} has no tampered pixel")
    if image is not None and perturbation is not None:
        image = perturbation(image, sample.name)
    return Loaded(sample, image, mask, problems, sha256_of("\n".join(hashes).encode()))


def load_in_background(
    samples: Sequence[Sample], lookahead: int, perturbation: Perturbation | None = None
) -> Iterator[Loaded]:
    """Yields the samples in order, read ahead by threads while the caller works.

    At most `lookahead` pictures wait, and fewer when they are large (`MAX_PIXELS`).
    """
    remaining = iter(samples)
    waiting: collections.deque[concurrent.futures.Future[Loaded]] = collections.deque()
    ahead = 1
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        while True:
            while len(waiting) < ahead and (sample := next(remaining, None)) is not None:
                waiting.append(pool.submit(load_sample, sample, perturbation))
            if not waiting:
                return
            loaded = waiting.popleft().result()
            pixels = 1 if loaded.image is None else loaded.image[..., 0].size
            ahead = max(1, min(lookahead, MAX_PIXELS // pixels))
            yield loaded


def _batches(loaded: Iterator[Loaded], batch_size: int) -> Iterator[list[Loaded]]:
    batch: list[Loaded] = []
    pixels = 0
    for item in loaded:
        batch.append(item)
        pixels += 0 if item.image is None else item.image[..., 0].size
        if len(batch) == batch_size or pixels >= MAX_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def evaluate_dataset(
    detector: Detector,
    listing: Listing,
    protocol: protocols.Protocol,
    *,
    batch_size: int = 8,
    label: str | None = None,
    title: str | None = None,
    perturbation: Perturbation | None = None,
    observers: Sequence[Observer] = (),
    progress: bool = True,
) -> DatasetResult:
    """Evaluates a detector on every picture of a listing.

    Args:
        batch_size: pictures handed to the detector at once.
        label: name of the data set in the results (the listing's by default).
        title: of the progress bar.
        perturbation: applied to each picture before the detector sees it, called with the picture
            and the sample's name; it must keep the size.
        observers: called with each picture's files, analysis and scores.

    Raises:
        UserError: no picture of the listing can be used.
    """
    start = time.monotonic()
    label = label or listing.name
    records: list[Record] = []
    skipped = list(listing.skipped)
    notes: list[tuple[Path, str]] = [(listing.root, note) for note in listing.notes]
    digest = hashlib.sha256()
    pending: list[tuple[Loaded, Result, concurrent.futures.Future[protocols.ImageScores]]] = []

    def collect() -> None:
        for item, analysis, future in pending:
            scores = future.result()
            height, width = analysis.heat_map.shape
            records.append(Record(item.sample.name, item.sample.image, (height, width), scores))
            for observer in observers:
                observer(item, analysis, scores)
        pending.clear()

    loaded = load_in_background(listing.samples, 2 * batch_size, perturbation)
    with (
        tqdm(
            total=len(listing.samples), desc=title or label, unit="image", disable=not progress
        ) as bar,
        concurrent.futures.ThreadPoolExecutor(_SCORERS) as pool,
    ):
        for batch in _batches(loaded, batch_size):
            for item in batch:
                digest.update(item.digest.encode())
                found = skipped if item.image is None else notes
                found.extend((item.sample.image, problem) for problem in item.problems)
            readable = [item for item in batch if item.image is not None]
            images = [item.image for item in readable if item.image is not None]
            if _pixels(readable) + _pixels(item for item, _, _ in pending) > MAX_PIXELS:
                collect()
            analyses = detector.analyse(images) if images else []
            collect()  # the batch before, which threads scored while the detector worked
            for item, analysis in zip(readable, analyses, strict=True):
                if not _finite(analysis):
                    reason = "the method gave a score or map that is not finite"
                    skipped.append((item.sample.image, reason))
                    continue
                arguments = (item.sample.label, analysis.score, analysis.heat_map, item.mask)
                future = pool.submit(protocols.score_image, protocol, *arguments)
                pending.append((item, analysis, future))
            bar.update(len(batch))
        collect()
    # Last, so that they do not hide the other notes where most pictures have no mask.
    notes += [(sample.image, _NO_MASK) for sample in _without_masks(listing)]
    if not records:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        raise UserError(f"{label}: none of {listing.root}'s pictures can be used ({reasons})")
    summary = protocols.summarise(protocol, [record.scores for record in records])
    summary |= {"skipped": len(skipped), "noted": len(notes)}
    return DatasetResult(
        label,
        listing.name,
        listing.root,
        summary,
        records,
        skipped,
        notes,
        digest.hexdigest(),
        time.monotonic() - start,
    )


def _without_masks(listing: Listing) -> list[Sample]:
    """Tampered pictures without a mask, where others have one; a set may also have none at all."""
    tampered = [sample for sample in listing.samples if sample.label == TAMPERED]
    lacking = [sample for sample in tampered if sample.mask is None]
    return lacking if len(lacking) < len(tampered) else []


def _pixels(items: Iterable[Loaded]) -> int:
    return sum(item.image[..., 0].size for item in items if item.image is not None)


def _finite(analysis: Result) -> bool:
    # A sum is NaN or infinite if any term is, and needs no mask of the map's size.
    return math.isfinite(analysis.score) and math.isfinite(float(analysis.heat_map.sum()))
