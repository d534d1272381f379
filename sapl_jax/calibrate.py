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
from typing import TYPE_CHECKING

from sapl_jax.errors import Parser, UserError, run_main

if TYPE_CHECKING:
    import numpy as np

    from data_pipelines.listing import Listing, Sample
    from sapl_jax.inference.localizer import Localizer

log = logging.getLogger(__name__)
_SHOWN = 10


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


def training_data(localizer: "Localizer", given: Path | None) -> "Listing | None":
    """The pictures of the model's training and validation, None where they are not here."""
    from data_pipelines.readers import read_dataset

    data = localizer.config.data
    root = given or (Path(data.root).expanduser() if data.root else None)
    return read_dataset(data.dataset, root) if root and (given or root.is_dir()) else None


def choose_pictures(
    arguments: argparse.Namespace, localizer: "Localizer"
) -> "tuple[list[Sample], str]":
    """The pictures to calibrate on, and where they come from."""
    from data_pipelines.duplicates import identical_across, identical_groups
    from data_pipelines.listing import AUTHENTIC, Sample
    from data_pipelines.splits import split_samples
    from sapl_jax.inference.inputs import find_pictures

    training = training_data(localizer, arguments.data)
    config = localizer.config
    if arguments.authentic is None:
        if training is None:
            raise UserError(
                "The training data are not here: give their folder with --data, or your own "
                "authentic pictures with --authentic."
            )
        split = split_samples(training.samples, config.data.val_fraction, config.seed)
        if not split.validation:
            raise UserError("Training held no validation pictures out: give --authentic FOLDER.")
        return split.validation, f"the validation split of {training.root.name}"
    paths = find_pictures([str(arguments.authentic)]).pictures
    twins = {path for group in identical_groups(paths) for path in group[1:]}
    if training is None:
        log.warning(
            "The training data are not here (--data): that none of these are in it is yours"
        )
        seen = set()
    else:
        seen = set(identical_across(paths, [sample.image for sample in training.samples]))
    for found, what in (
        (twins, "copies of others"),
        (seen - twins, "pictures of the training data"),
    ):
        if found:
            log.warning("left out: %d %s (%s, ...)", len(found), what, min(found))
    kept = [Sample(str(p), p, AUTHENTIC) for p in paths if p not in twins | seen]
    return kept, f"{len(kept)} authentic pictures of {arguments.authentic.resolve().name}"


def measure(
    localizer: "Localizer", samples: "Sequence[Sample]"
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Labels [N], scores [N], and the mean histogram [BINS] of authentic pictures' maps."""
    import numpy as np
    from tqdm import tqdm

    from data_pipelines.listing import AUTHENTIC
    from sapl_jax.evaluation.evaluator import loaded_batches
    from sapl_jax.inference.calibration import BINS

    labels, scores, counts, skipped = [], [], np.zeros(BINS), []
    blind = [dataclasses.replace(sample, mask=None) for sample in samples]
    with tqdm(total=len(blind), desc="calibrate", unit="image") as bar:
        for batch in loaded_batches(blind, localizer.batch_size):
            readable = [item for item in batch if item.image is not None]
            skipped += [item for item in batch if item.image is None]
            images = [item.image for item in readable if item.image is not None]
            results = localizer.analyse(images) if images else []
            for item, result in zip(readable, results, strict=True):
                labels.append(item.sample.label)
                scores.append(result.score)
                if item.sample.label == AUTHENTIC:
                    found = np.histogram(result.heat_map, BINS, (0, 1))[0]
                    counts += found / result.heat_map.size
            bar.update(len(batch))
    for item in skipped[:_SHOWN]:
        log.warning("skipped %s: %s", item.sample.image, "; ".join(item.problems))
    if len(skipped) > _SHOWN:
        log.warning("skipped: %d more", len(skipped) - _SHOWN)
    return np.array(labels, int), np.array(scores, float), counts


def main() -> None:
    """The command."""
    arguments = parse_arguments(sys.argv[1:])
    for name in ("false_alarms", "marked"):
        if not 0 < getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(arguments, name)}; expected between 0 and 1")
    from sapl_jax.devices import use_compilation_cache
    from sapl_jax.inference import calibration
    from sapl_jax.inference.localizer import Localizer

    use_compilation_cache()
    localizer = Localizer.load(arguments.checkpoint)
    samples, origin = choose_pictures(arguments, localizer)
    labels, scores, counts = measure(localizer, samples)
    found = calibration.calibrate(
        labels,
        scores,
        counts,
        false_alarms=arguments.false_alarms,
        marked=arguments.marked,
        model=localizer.source["fingerprint"],
        pictures=origin,
    )
    before = localizer.calibration
    if arguments.authentic is not None and before is not None:
        # Your pictures say where authentic ones end, the validation split the rest.
        kept = {name: getattr(before, name) for name in ("temperature", "bias", "fitted_on")}
        low = before.authentic_to
        low = None if low is None else min(low, found.tampered_above)
        found = dataclasses.replace(found, **kept, authentic_to=low, tampered=before.tampered)
    elif not found.tampered:
        log.warning("no tampered pictures: no probability is fitted, and none is called authentic")
    calibration.write(arguments.checkpoint, found)
    print(found.rule)
    print(
        f"The heat map marks {found.marked:.1%} of authentic pixels above {found.map_threshold:.3f}"
    )
    if found.temperature is not None:
        print(f"probability = sigmoid(logit(score) / {found.temperature:.3f} {found.bias:+.3f})")
    print(f"written to {arguments.checkpoint / calibration.FILE}")


if __name__ == "__main__":
    run_main(main)
