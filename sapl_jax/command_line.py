"""Command lines of programs that start trainings: own flags, and --config.NAME=VALUE passed on."""

import argparse
from collections.abc import Sequence

from sapl_jax.errors import UserError

# Exit statuses of a child that Ctrl-C or SIGTERM ended, as a status or as a signal.
INTERRUPTED = (130, 143, -2, -15)


def parse_with_config_flags(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Reads a command line; the second part holds the --config.* flags for training.

    Raises:
        UserError: an argument that is neither, or a training flag without its value.
    """
    known, rest = parser.parse_known_args(arguments)
    if wrong := [flag for flag in rest if not flag.startswith("--config.")]:
        raise UserError(f"unknown argument {wrong[0]!r}; training flags look like --config.seed=1")
    if spaced := [flag for flag in rest if "=" not in flag]:
        raise UserError(f"{spaced[0]}: write training flags as --config.NAME=VALUE")
    return known, rest
