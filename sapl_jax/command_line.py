"""What command lines share: names of commands, checks, and --config.NAME=VALUE passed on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sapl_jax.errors import UserError

# `sapl NAME` is `python -m MODULE`.
COMMANDS = {
    "train": "sapl_jax.train",
    "evaluate": "sapl_jax.evaluate",
    "predict": "sapl_jax.predict",
    "export": "sapl_jax.export",
    "serve": "sapl_jax.serve",
    "demo": "sapl_jax.demo",
    "ablate": "sapl_jax.ablate",
    "prepare": "data_pipelines.prepare",
    "doctor": "data_pipelines.doctor",
    "generate": "data_pipelines.generate",
    "edge-statistics": "data_pipelines.edge_statistics",
    "calibrate": "sapl_jax.calibrate",
}
# Exit statuses of a child that Ctrl-C or SIGTERM ended, as a status or as a signal.
INTERRUPTED = (130, 143, -2, -15)
# What --tile and --tile-overlap may be, for `check_numbers`.
TILES = {"tile": (32, 10**6), "tile_overlap": (0, 0.9)}


def check_checkpoint(folder: Path | None) -> None:
    """UserError where the model of --checkpoint cannot be there: it costs no import to see."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give a training run's folder or an export.")


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
