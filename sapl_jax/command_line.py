"""What command lines share: names of commands, checks, and --config.NAME=VALUE passed on."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sapl_jax.errors import UserError, printable

# `sapl NAME` is `python -m MODULE`.
COMMANDS = {
    name: f"{package}.{name.replace('-', '_')}"
    for package, names in (
        ("sapl_jax", "train evaluate predict export serve demo ablate calibrate"),
        ("data_pipelines", "prepare doctor generate edge-statistics"),
    )
    for name in names.split()
}
# Exit statuses of a child that Ctrl-C or SIGTERM ended, as a status or as a signal.
INTERRUPTED = (130, 143, -2, -15)
# What --tile and --tile-overlap may be, for `check_numbers`.
TILES = {"tile": (32, 10**6), "tile_overlap": (0, 0.9)}
_SHOWN = 10  # of the files that `print_files` is given
TILE_HELP = "larger pictures' maps in tiles of this many pixels; default: the checkpoint's"
WHICH_HELP = "checkpoint of a run, best by validation I-AUC; default: what its train.keep says"


def run_command(command: list[str]) -> int:
    """Runs a command to its end, which Ctrl-C leaves to it; returns its exit status."""
    with subprocess.Popen(command) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait() or 130  # A training that was at its last step ends with 0.


def print_files(what: str, found: Sequence[tuple[Path, str]], where: str) -> None:
    """Prints the first few (path, reason) on stderr; `where`: the file that has them all."""
    for path, reason in found[:_SHOWN]:
        print(f"{what} {printable(path)}: {printable(reason)}", file=sys.stderr)
    if len(found) > _SHOWN:
        print(f"{what}: {len(found) - _SHOWN} more, see {where}", file=sys.stderr)


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
