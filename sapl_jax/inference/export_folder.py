"""What every export folder says of itself; read without loading JAX."""

import json
from pathlib import Path
from typing import Any

from sapl_jax.errors import UserError

FILE = "export.json"
NAME = "sapl_jax export"
# What an export of any format can hold.
_WRITTEN = {
    FILE, "README.md", "run.py", "weights", "weights.npz", "model.stablehlo", "model.onnx",
    "model.onnx.data", "config.json", "model.safetensors",
}  # fmt: skip
VERSION = 1  # Raised when a reader of the version before could not read the new folder.


def is_export(folder: Path) -> bool:
    """Whether a folder says that it is an export of this project."""
    try:
        return json.loads((folder / FILE).read_text())["format"] == NAME
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_description(folder: Path) -> dict[str, Any]:
    """The checked content of export.json; UserError where it is of another version."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
        name, version = content["format"], content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a readable description of an export: {error}") from error
    if name != NAME or version != VERSION:
        writer = content.get("versions", {}).get("sapl-jax", "an unknown version")
        raise UserError(
            f"{folder} is an export of format {version!r}, written by sapl_jax {writer}; this "
            f"version reads format {VERSION}. Export the checkpoint again with this version, or "
            "open the folder with the version that wrote it."
        )
    return content


def refuse_foreign(output: Path) -> None:
    """UserError where `output` is there and is neither empty nor an earlier export."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"{output} is a file or a link; give a folder that is not there yet.")
    foreign = {path.name for path in output.iterdir()} if output.is_dir() else set()
    foreign -= _WRITTEN if is_export(output) else set()
    if foreign:
        raise UserError(
            f"{output} holds files that are not an export of this project ({min(foreign)}), and "
            "nothing is overwritten. Give another --output."
        )
