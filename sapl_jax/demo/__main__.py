"""SAPL from nothing to a report: generated data, training, evaluation, in minutes on a CPU.

python -m sapl_jax.demo --output demo

Run it again to continue what was interrupted; what is finished is not done again.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from configs import demo
from data_pipelines.generator.folder import generate
from sapl_jax.command_line import INTERRUPTED, parse_with_config_flags, run_command
from sapl_jax.errors import Parser, check_numbers, run_main
from sapl_jax.files import writing
from sapl_jax.training.configuration import load_config

TRAIN_SEED, TEST_SEED = 1, 2


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the command line; the second part holds the --config.* flags for training."""
    parser = Parser("sapl demo", __doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    add("--train-images", type=int, default=6000, help="training pictures (default: 6000)")
    add("--test-images", type=int, default=300, help="held-out pictures (default: 300)")
    return parse_with_config_flags(parser, arguments)


def make_data(
    output: Path, train_images: int, test_images: int, size: int, world: str = "seam", **source: Any
) -> tuple[Path, Path]:
    """The training and the test folder, generated now unless they are there; size in pixels.

    source: `photographs` and `segments` of `generate`.
    """
    source |= {"size": size, "world": world}
    test = generate(output / "data/test", test_images, TEST_SEED, split="test", **source)
    train = generate(output / "data/train", train_images, TRAIN_SEED, **source)
    return train, test


def main() -> int:
    """The command; the exit status of the training where that stopped early."""
    arguments, config_flags = parse_arguments(sys.argv[1:])
    check_numbers(arguments, train_images=(2, 10**8), test_images=(2, 10**8))
    size = load_config(demo.__file__, config_flags).image.size  # Mistakes are told before work.
    output = arguments.output
    again = "Free some space and run the same command again; what is finished is kept."
    with writing(output, again):
        train, test = make_data(output, arguments.train_images, arguments.test_images, size)
        command = [
            sys.executable, "-m", "sapl_jax.train", "--config", str(Path(demo.__file__)),
            "--workdir", str(output / "run"), f"--config.data.root={train}",
            f"--config.data.prepared={output / 'prepared'}", *config_flags,
        ]  # fmt: skip
        status = run_command(command)
        if status in INTERRUPTED:
            print("stopped; run the same command to continue", file=sys.stderr)
        if status:
            return status if status > 0 else 128 - status
        from sapl_jax.demo.outcome import evaluate_and_report

        print(evaluate_and_report(output / "run", test, output))
    print(f"report: {output / 'report.html'}")
    return 0


if __name__ == "__main__":
    run_main(main)
