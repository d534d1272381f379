"""Writes a set of generated pictures or of forged photographs: Au/, Tp/ and masks in Gt/.

python -m data_pipelines.generate --output DIR --images N --seed S [--world WORLD]
python -m data_pipelines.generate --output DIR --images N --photographs DIR [--segments DIR]
"""

from data_pipelines.generator.examples import WORLDS
from data_pipelines.generator.folder import generate
from data_pipelines.generator.photographs import SPLITS
from sapl_jax.errors import Parser, UserError, check_numbers, run_main


def main() -> None:
    """The command: flags, generate, summary."""
    parser = Parser("sapl generate", __doc__)
    add = parser.add_argument
    add("--output", required=True, help="folder to write; empty, absent or ours")
    add("--images", type=int, required=True, help="pictures, half of them tampered")
    add("--seed", type=int, default=0, help="of generated pictures no two seeds share a source")
    add("--size", type=int, default=256, help="longer side in pixels")
    text = "where forgeries differ: over their area (interior, the default), at their outline only "
    text += "(seam), every other pair so (both); copy-move: unblended copies, of photographs too"
    add("--world", choices=WORLDS, default="interior", help=text)
    add("--photographs", help="folder of real photographs to forge instead")
    add("--segments", help="its label images <stem>.png; default: found by OpenCV")
    text = "the photographs to take: 80 (train, the default), 10 or 10 %% of them by a hash of "
    add("--split", choices=SPLITS, help=f"{text}their names, so that no two splits share one")
    add("--workers", type=int, help="processes (default: one per core)")
    flags = parser.parse_args()
    check_numbers(flags, images=(2, 10**8), size=(64, 10**5), seed=(0, 10**9), workers=(1, 1024))
    if not flags.photographs and (flags.segments or flags.split):
        raise UserError("--segments and --split are for photographs: give --photographs too")
    flags.split = flags.split or "train"
    folder = generate(**vars(flags))
    print(f"{flags.images} pictures in {folder}: Au/ (authentic), Tp/ (tampered), Gt/ (masks)")


if __name__ == "__main__":
    run_main(main)
