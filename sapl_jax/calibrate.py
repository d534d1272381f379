"""Calibrates a checkpoint: python -m sapl_jax.calibrate --checkpoint DIR [--authentic FOLDER].

Without --authentic: on the validation split that training held out: the probability, the map's
threshold and the verdicts. With it: thresholds for your own authentic pictures; the probability
stays what the validation split gave. The result is calibration.json in DIR, which predict, the
page, `Localizer` and every export take up. No mask is opened.
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.duplicates import identical_across, identical_groups
from data_pipelines.listing import AUTHENTIC, Sample
from data_pipelines.prepared import fingerprint
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.readers import read_dataset
from data_pipelines.splits import split_samples
from sapl_jax.errors import Parser, UserError, run_main
from sapl_jax.inference.detector import Detector
from sapl_jax.inference.inputs import find_pictures
from sapl_jax.workdir import trained_on

log = logging.getLogger(__name__)
_BATCH = 32  # pictures handed to the model at once


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("sapl calibrate", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a training run's folder, or an export")
    add("--authentic", type=Path, help="folder of your own authentic pictures, with all below it")
    add("--data", type=Path, help="the training data, where they lie elsewhere than in training")
    add("--false-alarms", type=float, default=0.05, help="share of authentic pictures, 0 to 1")
    add("--marked", type=float, default=0.01, help="share of authentic pixels that maps may mark")
    return parser.parse_args(arguments)


def choose_pictures(arguments: argparse.Namespace, localizer: Any) -> tuple[list[Sample], str]:
    """The pictures to calibrate on, and where they come from."""
    config, data = localizer.config, localizer.config.data
    root, listing = arguments.data or Path(data.root or "/dev/null").expanduser(), None
    if arguments.data or root.is_dir():
        listing = read_dataset(data.dataset, root)
    if arguments.authentic is None:
        if listing is None:
            raise UserError(
                "The training data are not here: give their folder with --data, or your own "
                "authentic pictures with --authentic."
            )
        settings = (localizer.geometry, localizer.edge_options, data.val_fraction, config.seed)
        before = trained_on(arguments.checkpoint)
        if before is None or fingerprint(listing, *settings) != before["fingerprint"]:
            log.warning("%s may not be what it was trained on, nor its validation split", root)
        split = split_samples(listing.samples, data.val_fraction, config.seed)
        if not split.validation:
            raise UserError("Training held no validation pictures out: give --authentic FOLDER.")
        return split.validation, f"the validation split of {root.name}"
    paths = find_pictures([str(arguments.authentic)]).pictures
    twins = {path for group in identical_groups(paths) for path in group[1:]}
    known = [sample.image for sample in listing.samples] if listing else []
    seen = set(identical_across(paths, known)) - twins
    if listing is None:
        log.warning("The training data are not here (--data): whether these are in it is unknown.")
    for found, what in ((twins, "copies of others"), (seen, "pictures of the training data")):
        if found:
            log.warning("left out: %d %s (%s, ...)", len(found), what, min(found))
    kept = [Sample(str(p), p, AUTHENTIC) for p in paths if p not in twins | seen]
    return kept, f"{len(kept)} authentic pictures of {arguments.authentic.resolve().name}"


def main() -> None:
    """The command."""
    arguments = parse_arguments(sys.argv[1:])
    for flag in ("false_alarms", "marked"):
        if not 0 < (value := getattr(arguments, flag)) < 1:
            raise UserError(f"--{flag.replace('_', '-')} is {value}; expected between 0 and 1")
    # These load JAX: not for --help.
    from sapl_jax.devices import use_compilation_cache
    from sapl_jax.inference import calibration
    from sapl_jax.inference.localizer import Localizer

    use_compilation_cache()
    localizer = Localizer.load(arguments.checkpoint)
    samples, origin = choose_pictures(arguments, localizer)
    found = calibration.calibrate(
        *measure(localizer, samples),
        false_alarms=arguments.false_alarms,
        marked=arguments.marked,
        model=localizer.source["fingerprint"],
        pictures=origin,
    )
    before = localizer.calibration
    if arguments.authentic is not None and before is not None:
        # Your pictures say where authentic ones end, the validation split the rest.
        found = calibration.with_tampered_side_of(before, found)
    elif not found.tampered:
        log.warning("no tampered pictures: no probability is fitted, and none is called authentic")
    calibration.write(arguments.checkpoint, found)
    print(found.rule)
    print(
        f"Maps mark at most {found.marked:.1%} of authentic pixels above {found.map_threshold:.4g}"
    )
    if found.temperature is not None:
        print(f"probability = sigmoid(logit(score) / {found.temperature:.3f} {found.bias:+.3f})")
    print(f"written to {arguments.checkpoint / calibration.FILE}")


def measure(
    localizer: Detector, samples: Sequence[Sample]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], scores [N], and the mean histogram [BINS] of authentic pictures' maps."""
    from sapl_jax.evaluation.evaluator import loaded_batches
    from sapl_jax.inference.calibration import BINS

    labels, scores, counts = [], [], np.zeros(BINS)
    blind = [dataclasses.replace(sample, mask=None) for sample in samples]
    for batch in ProgressBar(loaded_batches(blind, _BATCH), "calibrate", unit="batch"):
        for item in batch:
            if item.image is None:
                log.warning("skipped %s: %s", item.sample.image, "; ".join(item.problems))
        readable = [item for item in batch if item.image is not None]
        images = [item.image for item in readable if item.image is not None]
        results = localizer.analyse(images) if images else []
        for item, result in zip(readable, results, strict=True):
            labels.append(item.sample.label)
            scores.append(result.score)
            if item.sample.label == AUTHENTIC:
                counts += np.histogram(result.heat_map, BINS, (0, 1))[0] / result.heat_map.size
    return np.array(labels, int), np.array(scores, float), counts


if __name__ == "__main__":
    run_main(main)
