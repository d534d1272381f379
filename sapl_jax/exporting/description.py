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


_HEAD = """# SAPL, {kind} export

Weakly supervised image manipulation localization: a picture gets a score (the probability that it
was tampered with) and a heat map (where). Checkpoint {checkpoint}; CLIP {clip}. `export.json` has
the configuration, the preprocessing and the versions that wrote this folder.
"""

_RUN = """pictures uint8
[B, {canvas}, {canvas}, 3], soft edge maps float32 [B, {grid}, {grid}] and valid patches bool
[B, {grid}, {grid}], for any B, and returns scores [B] and patch heat maps [B, {grid}, {grid}].
`run.py` has the preprocessing and needs no more than:

    pip install PACKAGE numpy opencv-python-headless
    python run.py PICTURE...
"""

_OPEN = {
    "orbax": """
Open it with the package that wrote it, on any number of devices; CLIP's own files are not needed:

```python
from sapl_jax import Localizer

result = Localizer.load("{folder}")(image)  # uint8 RGB [H, W, 3]
result.score, result.heat_map, result.mask
```
""",
    "stablehlo": f"""
`model.stablehlo` is a serialized `jax.export` program for CPU, CUDA and TPU. It takes the weights
(a dict of arrays, `weights.npz`), {_RUN.replace("PACKAGE", '"jax>={jax}"')}
JAX keeps such a program readable for six months of its releases at least.
""",
    "onnx": f"""
`model.onnx` takes, as `in_0`, `in_1` and `in_2`, {_RUN.replace("PACKAGE", "onnxruntime")}""",
    "huggingface": """
CLIP with the trained LoRA merged into its vision tower, float32; the text tower is the original's.
SAPL's prompts and heads are not here, so this folder gives image features, not heat maps:

```python
from transformers import CLIPVisionModelWithProjection

tower = CLIPVisionModelWithProjection.from_pretrained("{folder}")
```

The tokenizer is the one of the CLIP named above.
""",
}


def readme(description: dict[str, Any], folder_name: str) -> str:
    """Markdown for an export folder, from its description and its name."""
    options, kind = description["preprocessing"], description["kind"]
    return (_HEAD + _OPEN[kind]).format(
        kind=kind,
        checkpoint=description["source"]["checkpoint"],
        clip=description["source"]["clip"]["name"],
        folder=folder_name,
        canvas=options["canvas"],
        grid=options["canvas"] // options["patch"],
        jax=description["versions"]["jax"],
    )
