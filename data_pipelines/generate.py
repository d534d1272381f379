"""Writes a benchmark of generated pictures: Au/, Tp/ and masks in Gt/.

python -m data_pipelines.generate --output DIR --images N --seed S
"""

import argparse

from data_pipelines.generator.folder import generate
from sapl_jax.errors import run_main


def main() -> int | None:
    """The command: flags, generate, summary."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.generate", description=__doc__)
    parser.add_argument("--output", required=True, help="folder to write; empty, absent or ours")
    parser.add_argument("--images", type=int, required=True, help="pictures, half of them tampered")
    parser.add_argument("--seed", type=int, default=0, help="no two seeds share a source picture")
    parser.add_argument("--size", type=int, default=256, help="longer side in pixels")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    flags = parser.parse_args()
    folder = generate(flags.output, flags.images, flags.seed, flags.size, workers=flags.workers)
    print(f"{flags.images} pictures in {folder}: Au/ (authentic), Tp/ (tampered), Gt/ (masks)")
    return None


if __name__ == "__main__":
    run_main(main)
