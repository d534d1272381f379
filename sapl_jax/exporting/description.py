"""`export.json`: what an export folder says about itself, the same in every format."""

import dataclasses
import datetime
import itertools
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_pipelines.preprocess import PADDING, Geometry
from sapl_jax.clip.config import CLIPConfig, TextConfig, VisionConfig
from sapl_jax.errors import UserError
from sapl_jax.evaluation.results import versions
from sapl_jax.models.sapl import SAPL
from sapl_jax.training.trained import TrainedModel
from sapl_jax.training.workdir import write_json

FILE = "export.json"
NAME = "sapl_jax export"
VERSION = 1  # Raised when a reader of the version before could not read the new folder.


def describe(trained: TrainedModel, kind: str) -> dict[str, Any]:
    """The content of export.json.

    Args:
      trained: the model that is exported.
      kind: the format: "orbax", "stablehlo", "onnx" or "huggingface".
    """
    config, clip = trained.config.copy_and_resolve_references(), trained.model.clip
    # Where pictures and weights lay on the trainer's machine is the trainer's own business.
    config.data.root = config.data.prepared = ""
    config.clip.pretrained = _without_folders(config.clip.pretrained)
    source = {key: value for key, value in trained.source.items() if key != "weights"}
    source["clip"] = {**source["clip"], "name": _without_folders(source["clip"]["name"])}
    geometry = Geometry(config.image.size, clip.config.vision.patch_size)
    return {
        "format": NAME,
        "format_version": VERSION,
        "kind": kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": source,
        "preprocessing": {
            "size": geometry.size,
            "patch": geometry.patch,
            "canvas": geometry.canvas,
            "padding": list(PADDING),
            "canny_low": config.image.canny_low,
            "canny_high": config.image.canny_high,
            "edge_kappa": config.image.edge_kappa,
            "edge_alpha_min": config.image.edge_alpha_min,
            "edge_alpha_max": config.image.edge_alpha_max,
        },
        "heat_map": config.model.heat_map.to_dict(),
        "clip": dataclasses.asdict(clip.config),
        "class_ids": _class_ids(trained.model),
        "config": config.to_dict(),
    }


def is_export(folder: Path) -> bool:
    """Whether a folder says that it is an export of this project."""
    try:
        content = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == NAME


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


def write_description(folder: Path, content: dict[str, Any]) -> None:
    """Writes export.json; UserError where the folder cannot be written."""
    write_json(folder / FILE, content)


def clip_config(content: dict[str, Any]) -> CLIPConfig:
    """CLIP's configuration in a description."""
    fields = dict(content["clip"])
    vision, text = VisionConfig(**fields.pop("vision")), TextConfig(**fields.pop("text"))
    return CLIPConfig(vision=vision, text=text, **fields)


def training_config(content: dict[str, Any]) -> ConfigDict:
    """The locked configuration of the run in a description."""
    return ConfigDict(_as_tuples(content["config"])).lock()


def _without_folders(name: str) -> str:
    """The last part of a folder's path; hub names, which are relative, stay whole."""
    prefix = "random:" if name.startswith("random:") else ""
    path = Path(name.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() else name


def _class_ids(model: SAPL) -> list[list[int]]:
    # Prompts hold each word's ids with EOT behind them, more than once behind a shorter word.
    eot = model.clip.eot_id
    return [list(itertools.takewhile(lambda i: i != eot, ids)) for ids in model.prompts.class_ids]


def _as_tuples(value: Any) -> Any:
    """JSON has no tuples; configurations have no lists."""
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
