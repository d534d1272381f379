"""What an export says about itself, in every format: `export.json` and README.md."""

import dataclasses
import datetime
import itertools
from pathlib import Path
from typing import Any

from data_pipelines.preprocess import PADDING, Geometry
from sapl_jax.files import versions
from sapl_jax.inference.export_folder import NAME, VERSION
from sapl_jax.inference.opening import TrainedModel

_READMES = Path(__file__).parents[1] / "assets" / "export_readme"


def describe(trained: TrainedModel, kind: str) -> dict[str, Any]:
    """The content of export.json; kind: "orbax", "stablehlo", "onnx" or "huggingface"."""
    config, clip = trained.config.copy_and_resolve_references(), trained.model.clip
    # Where pictures and weights lay on the trainer's machine is the trainer's own business.
    config.data.root = config.data.prepared = ""
    config.clip.pretrained = _without_folders(config.clip.pretrained)
    source = {key: value for key, value in trained.source.items() if key != "weights"}
    source["clip"] = {**source["clip"], "name": _without_folders(source["clip"]["name"])}
    geometry = Geometry(config.image.size, clip.config.vision.patch_size)
    preprocessing = {"patch": geometry.patch, "canvas": geometry.canvas, "padding": list(PADDING)}
    return {
        "format": NAME,
        "format_version": VERSION,
        "kind": kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": source,
        "preprocessing": config.image.to_dict() | preprocessing,
        "heat_map": config.model.heat_map.to_dict(),
        "clip": dataclasses.asdict(clip.config),
        # Prompts hold each word's ids with EOT behind them, more than once behind a shorter word.
        "class_ids": [
            list(itertools.takewhile(lambda i: i != clip.eot_id, ids))
            for ids in trained.model.prompts.class_ids
        ],
        "config": config.to_dict(),
    }


def _without_folders(name: str) -> str:
    """The last part of a folder's path; hub names, which are relative, stay whole."""
    prefix = "random:" if name.startswith("random:") else ""
    path = Path(name.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() else name


def readme(description: dict[str, Any], folder_name: str) -> str:
    """Markdown for an export folder, from its description and its name."""
    options, kind = description["preprocessing"], description["kind"]
    grid = options["canvas"] // options["patch"]
    text = (_READMES / f"{kind}.md").read_text()
    return text.format(
        kind=kind,
        checkpoint=description["source"]["checkpoint"],
        clip=description["source"]["clip"]["name"],
        folder=folder_name,
        **options,
        grid=grid,
        cells=grid * (2 if description["config"]["model"]["test_views"] else 1),
        jax=description["versions"]["jax"],
    )
