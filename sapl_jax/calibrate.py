"""Calibrates a checkpoint: python -m sapl_jax.calibrate --checkpoint DIR [--authentic FOLDER].

Without --authentic: on the validation split that training held out: the probability, the map's
threshold and the verdicts. With it: thresholds for your own authentic pictures; the probability
stays what the validation split gave. The result is calibration.json in DIR, which predict, the
page, `Localizer` and every export take up. No mask is opened.
"""

import logging
from pathlib import Path

from data_pipelines.listing import AUTHENTIC
from sapl_jax.command_line import WHICH_HELP
from sapl_jax.errors import Parser, UserError, check_checkpoint, check_numbers, run_main
from sapl_jax.inference.inputs import find_pictures

log = logging.getLogger(__name__)


def main() -> None:
    """The command."""
    parser = Parser("sapl calibrate", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a training run's folder, or an export")
    add("--which", choices=("last", "best"), help=WHICH_HELP)
    add("--authentic", type=Path, help="folder of your own authentic pictures, with all below it")
    add("--data", type=Path, help="the training data, where they lie elsewhere than in training")
    add("--false-alarms", type=float, default=0.05, help="share of authentic pictures, 0 to 1")
    text = "share of authentic pixels that maps may mark (default: as calibrated before, else 0.01)"
    add("--marked", type=float, help=text)
    arguments = parser.parse_args()
    check_numbers(arguments, false_alarms=(1e-6, 1 - 1e-6), marked=(1e-6, 1 - 1e-6))
    check_checkpoint(arguments.checkpoint)
    if arguments.authentic is not None:
        find_pictures([str(arguments.authentic)])  # A mistake in it is told now.
    if arguments.data is not None and not arguments.data.is_dir():
        raise UserError(f"--data {arguments.data}: no such folder")
    # These load JAX: not for --help.
    from sapl_jax.devices import use_compilation_cache
    from sapl_jax.evaluation.calibrating import choose_pictures, measure
    from sapl_jax.inference import calibration
    from sapl_jax.inference.localizer import Localizer

    use_compilation_cache()
    localizer = Localizer.load(arguments.checkpoint, which=arguments.which)
    own, before = arguments.authentic, localizer.calibration
    samples, origin = choose_pictures(localizer, arguments.checkpoint, own, arguments.data)
    authentic = sum(sample.label == AUTHENTIC for sample in samples)
    calibration.check_enough(authentic, arguments.false_alarms)  # Before they are analysed.
    found = calibration.calibrate(
        *measure(localizer, samples),
        false_alarms=arguments.false_alarms,
        marked=arguments.marked or (before.marked if before else 0.01),
        model=localizer.source["fingerprint"],
        pictures=origin,
    )
    if own is not None and before is not None:
        # Your pictures say where authentic ones end, the validation split the rest.
        found = calibration.with_tampered_side_of(before, found)
    elif not found.tampered:
        log.warning("no tampered pictures: no probability is fitted, and none is called authentic")
    calibration.write(arguments.checkpoint, found)
    print(found.rule)
    above = f"{found.map_threshold:.4g}"
    print(f"Maps mark at most {found.marked:.1%} of authentic pixels above {above}")
    if found.temperature is not None:
        print(f"probability = sigmoid(logit(score) / {found.temperature:.3f} {found.bias:+.3f})")
    print(f"written to {arguments.checkpoint / calibration.FILE}")


if __name__ == "__main__":
    run_main(main)
