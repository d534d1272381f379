"""Exports a trained model: python -m sapl_jax.export --checkpoint DIR --output OUT --format FORMAT.

Formats: orbax (for this package, without CLIP's files), stablehlo and onnx (run without this
package), huggingface (the adapted CLIP for other tools). Each export is checked against the
checkpoint on real pictures before it is called done.
"""

import logging
from pathlib import Path

from sapl_jax.command_line import WHICH_HELP, print_files
from sapl_jax.errors import Parser, UserError, check_checkpoint, run_main
from sapl_jax.files import make_output_folder
from sapl_jax.inference.export_folder import refuse_foreign
from sapl_jax.inference.inputs import Found, find_pictures

log = logging.getLogger(__name__)


def main() -> None:
    """The command."""
    parser = Parser("sapl export", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a training run's folder, or an export")
    add("--which", choices=("last", "best"), help=WHICH_HELP)
    add("--output", type=Path, required=True, help="folder to make; an earlier export is replaced")
    add("--format", required=True, choices=("orbax", "stablehlo", "onnx", "huggingface"))
    text = "pictures to check the export on; by default two photographs that are installed"
    add("--pictures", nargs="+", help=text)
    arguments = parser.parse_args()
    refuse_foreign(arguments.output)
    check_checkpoint(arguments.checkpoint)
    if arguments.output.resolve() == arguments.checkpoint.resolve():
        raise UserError(f"{arguments.output} is the checkpoint itself; give another --output.")
    make_output_folder(arguments.output.parent)  # A mistake in it is told now.
    given = find_pictures(arguments.pictures) if arguments.pictures else Found()
    print_files("skipped", given.skipped, "what was named")
    from data_pipelines.generator.photographs import installed_photographs
    from sapl_jax.exporting import writing  # loads JAX: not for a mistake
    from sapl_jax.inference.opening import load_model

    trained = load_model(arguments.checkpoint, dtype="float32", which=arguments.which)
    log.info("checkpoint %s of %s", trained.source["checkpoint"], arguments.checkpoint)
    pictures = given.pictures or installed_photographs()
    for item in writing.export(trained, arguments.format, arguments.output, pictures):
        print(
            f"check: {item.name} ({item.size[1]} x {item.size[0]}): heat map differs by at most "
            f"{item.heat_map:.1e}, score by {item.score:.1e} (allowed {writing.TOLERANCE:g})"
        )
    print(f"{arguments.format} export of {trained.source['checkpoint']} is in {arguments.output}")


if __name__ == "__main__":
    run_main(main)
