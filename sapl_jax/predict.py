"""Analyses pictures: python -m sapl_jax.predict --checkpoint DIR --output OUT PATH...

PATH is a file, a folder (with all below it) or a quoted glob. For each picture OUT gets
<stem>_heatmap.png, <stem>_mask.png, <stem>_overlay.png and a line in predictions.jsonl. Run the
same command again to continue. Exit status: 0, or 1 if some files could not be used; these are in
skipped.jsonl.
"""

import functools
import logging
from pathlib import Path

from sapl_jax.command_line import TILE_HELP, TILES, WHICH_HELP, print_files
from sapl_jax.errors import Parser, check_checkpoint, check_numbers, run_main
from sapl_jax.files import make_output_folder, tree_sha256
from sapl_jax.inference.inputs import find_pictures

log = logging.getLogger(__name__)


def main() -> int:
    """The command."""
    parser = Parser("sapl predict", __doc__)
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="a picture, a folder, or a quoted glob")
    add("--checkpoint", type=Path, help="a training run's folder or an export; without: "
        "the package's model for photographs")  # fmt: skip
    add("--which", choices=("last", "best"), help=WHICH_HELP)
    add("--output", type=Path, required=True, help="folder for the results")
    add("--threshold", type=float, help="mask = heat map above this; default: the checkpoint's")
    add("--tile", type=int, help=TILE_HELP)
    add("--tile-overlap", type=float, default=0.25, help="share of a tile, 0 to 0.9")
    add("--batch-size", type=int, default=8, help="pictures handed to the model at once")
    add("--report", action="store_true", help="write a case report, <stem>_report.html, as well")
    add("--max-megapixels", type=float, default=100, help="larger pictures are refused")
    arguments = parser.parse_args()
    check_numbers(
        arguments, threshold=(0, 1), batch_size=(1, 4096), max_megapixels=(1e-6, 1000), **TILES
    )
    check_checkpoint(arguments.checkpoint)
    found = find_pictures(arguments.paths, leave_out=arguments.output)
    log.info("pictures: %d (%d other files left alone)", len(found.pictures), found.others)
    make_output_folder(arguments.output)
    # These load JAX: not for --help, nor before the arguments are known to be good.
    from sapl_jax.devices import use_compilation_cache
    from sapl_jax.inference.localizer import Localizer
    from sapl_jax.inference.output_folder import OutputFolder
    from sapl_jax.inference.predicting import predict

    use_compilation_cache()
    tiles = {"tile": arguments.tile, "overlap": arguments.tile_overlap}
    localizer = Localizer.load(arguments.checkpoint, which=arguments.which, **tiles)
    threshold = localizer.threshold if arguments.threshold is None else arguments.threshold
    if verdicts := localizer.calibration and localizer.calibration.rule:
        log.info(verdicts)
    elif "calibration" in localizer.source:
        log.warning("The calibration is of other tiles and left out: tampered is a score above 0.5")
    heat_map = localizer.config.model.heat_map
    settings = {
        "threshold": threshold,
        "test_views": localizer.config.model.test_views,
        "sigma": heat_map.sigma,
        "colours": heat_map.colours,
        "normalize": heat_map.normalize,
        "model": localizer.source["checkpoint"],
        "model_sha256": tree_sha256(Path(localizer.source["weights"])),
        "verdicts": verdicts,
        "tile": localizer.tile or None,
        "report": arguments.report or None,
        "tile_overlap": arguments.tile_overlap if localizer.tile else None,
    }
    report = None
    if arguments.report:
        from sapl_jax.evaluation.case_report import case_report

        report = functools.partial(case_report, localizer, settings)
    with OutputFolder.open(arguments.output, settings) as output:
        pixels = round(arguments.max_megapixels * 1e6)
        options = {"max_pixels": pixels, "batch_size": arguments.batch_size, "report": report}
        summary = predict(localizer, found.pictures, output, threshold, **options)
        skipped = found.skipped + summary.skipped
        output.write_skipped(skipped)
    print_files("skipped", skipped, "skipped.jsonl")
    print(
        f"{summary.analysed} analysed ({summary.tampered} called tampered), "
        f"{summary.already_there} were there already, {len(skipped)} could not be used; "
        f"results in {arguments.output}"
    )
    return 1 if skipped else 0


if __name__ == "__main__":
    run_main(main)
