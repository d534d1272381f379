"""Writes a CLIP as a Hugging Face folder that `transformers` and `load_clip` open."""

import json
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from sapl_jax.clip.config import to_hugging_face
from sapl_jax.clip.lora import merge_lora
from sapl_jax.clip.model import CLIP
from sapl_jax.clip.weights import TABLE, names_in_file, variable


def save_clip(clip: CLIP, folder: str | Path) -> Path:
    """Writes `config.json` and `model.safetensors` (PyTorch names and layout) into `folder`.

    LoRA, if attached, is merged. Weights keep the dtype of `clip`. The folder is made if absent;
    other files in it stay, except that an existing `config.json` and `model.safetensors` are
    replaced.

    Returns:
        The path of `model.safetensors`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merged = merge_lora(clip)
    tensors: dict[str, np.ndarray] = {}
    for entry in TABLE:
        value = np.asarray(jax.device_get(variable(merged, entry.path)[...]))
        names = names_in_file(merged, entry, "torch")
        layers = value if entry.is_stacked else [value]
        for name, layer in zip(names, layers, strict=True):
            if entry.axes is not None:
                layer = layer.transpose(np.argsort(entry.axes))
            tensors[name] = np.asarray(layer, order="C")
    config = to_hugging_face(merged.config) | {"torch_dtype": str(merged.dtype)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    file = folder / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    return file
