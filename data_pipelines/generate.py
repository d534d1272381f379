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
    parser.add_argument("--output", required=True, help="folder to write; empty, absent or ours")
    parser.add_argument("--images", type=int, required=True, help="pictures, half of them tampered")
    parser.add_argument("--seed", type=int, default=0, help="no two seeds share a source picture")
    parser.add_argument("--size", type=int, default=256, help="longer side in pixels")
    parser.add_argument(
        "--world",
        choices=WORLDS,
        help="where generated forgeries differ: over their area "
        "(interior, the default), at their outline only (seam), or every other pair so (both)",
    )
    parser.add_argument("--photographs", help="folder of real photographs to forge instead")
    parser.add_argument("--segments", help="its label images <stem>.png; default: found by OpenCV")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="the photographs to take: 80 (train, the default), 10 or "
        "10 %% of them by a hash of their names, so that no two splits share one",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    flags = parser.parse_args()
    check_numbers(flags, workers=(1, 1024))
    if flags.photographs and flags.world:
        raise UserError("--world is for generated pictures: leave it out with --photographs")
    if not flags.photographs and (flags.segments or flags.split):
        raise UserError("--segments and --split are for photographs: give --photographs too")
    flags.world, flags.split = flags.world or "interior", flags.split or "train"
    folder = generate(**vars(flags))
    print(f"{flags.images} pictures in {folder}: Au/ (authentic), Tp/ (tampered), Gt/ (masks)")


if __name__ == "__main__":
    run_main(main)
