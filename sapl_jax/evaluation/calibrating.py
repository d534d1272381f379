"""What a calibration is made from: which pictures, and what the model says of them."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.duplicates import identical_across, identical_groups
from data_pipelines.listing import AUTHENTIC, Sample
from data_pipelines.prepared import fingerprint
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.readers import read_dataset
from data_pipelines.splits import split_samples
from sapl_jax.errors import UserError, printable
from sapl_jax.evaluation.evaluator import loaded_batches
from sapl_jax.inference.calibration import BINS
from sapl_jax.inference.detector import Detector, is_finite
from sapl_jax.inference.inputs import find_pictures
from sapl_jax.inference.localizer import Localizer
from sapl_jax.workdir import trained_on

log = logging.getLogger(__name__)
_BATCH = 32  # pictures handed to the model at once


def choose_pictures(
    localizer: Localizer, checkpoint: Path, authentic: Path | None, data_root: Path | None
) -> tuple[list[Sample], str]:
    """The pictures to calibrate on, and where they come from.

    Args:
        authentic: folder of authentic pictures; None: the validation split of the training data.
        data_root: of the training data, where they lie elsewhere than in training.

    Raises:
        UserError: the training data are needed and not here, or no picture is there.
    """
    config, data = localizer.config, localizer.config.data
    root, listing = data_root or Path(data.root or "/dev/null").expanduser(), None
    if data_root or root.is_dir():
        listing = read_dataset(data.dataset, root)
    if authentic is None:
        if listing is None:
            raise UserError(
                "The training data are not here: give their folder with --data, or your own "
                "authentic pictures with --authentic."
            )
        settings = (localizer.geometry, localizer.edge_options, data.val_fraction, config.seed)
        before = trained_on(checkpoint)
        if before is None or fingerprint(listing, *settings) != before["fingerprint"]:
            log.warning("%s may not be what it was trained on, nor its validation split", root)
        split = split_samples(listing.samples, data.val_fraction, config.seed)
        if not split.validation:
            raise UserError("Training held no validation pictures out: give --authentic FOLDER.")
        return split.validation, f"the validation split of {root.name}"
    given = find_pictures([str(authentic)])
    paths, unread = given.pictures, {path for path, _ in given.skipped}
    twins = {path for group in identical_groups(paths) for path in group[1:]}
    known = [sample.image for sample in listing.samples] if listing else []
    seen = set(identical_across(paths, known)) - twins
    if listing is None:
        log.warning("The training data are not here (--data): whether these are in it is unknown.")
    reasons = ("unreadable", "copies of others", "pictures of the training data")
    for found, what in zip((unread, twins, seen), reasons, strict=True):
        if found:
            log.warning("left out: %d %s (%s, ...)", len(found), what, printable(min(found)))
    kept = [Sample(str(p), p, AUTHENTIC) for p in paths if p not in twins | seen]
    return kept, f"authentic pictures of {authentic.resolve().name}"


def measure(
    localizer: Detector, samples: Sequence[Sample]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], scores [N], and the mean histogram [BINS] of authentic pictures' maps."""
    labels, scores, counts = [], [], np.zeros(BINS)
    blind = [dataclasses.replace(sample, mask=None) for sample in samples]
    with ProgressBar(total=len(blind), desc="calibrate", unit="image") as bar:
        for batch in loaded_batches(blind, _BATCH):
            images = [item.image for item in batch if item.image is not None]
            results = iter(localizer.analyse(images) if images else [])
            for item in batch:
                result = None if item.image is None else next(results)
                if result is None or not is_finite(result):
                    why = "; ".join(item.problems) if result is None else "no finite score or map"
                    log.warning("skipped %s: %s", *map(printable, (item.sample.image, why)))
                    continue
                labels.append(item.sample.label)
                scores.append(result.score)
                if item.sample.label == AUTHENTIC:
                    counts += np.histogram(result.heat_map, BINS, (0, 1))[0] / result.heat_map.size
            bar.update(len(batch))
    return np.array(labels, int), np.array(scores, float), counts
