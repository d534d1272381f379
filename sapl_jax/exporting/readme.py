"""The README.md inside an export folder: what it is and how to open it."""

from typing import Any

_HEAD = """# SAPL, {kind} export

Weakly supervised image manipulation localization: a picture gets a score (the probability that it
was tampered with) and a heat map (where). Checkpoint {checkpoint}; CLIP {clip}. `export.json` has
the configuration, the preprocessing and the versions that wrote this folder.
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
    "stablehlo": """
`model.stablehlo` is a serialized `jax.export` program for CPU, CUDA and TPU. It takes the weights
(a dict of arrays, `weights.npz`), pictures uint8 [B, {canvas}, {canvas}, 3], soft edge maps float32
[B, {grid}, {grid}] and valid patches bool [B, {grid}, {grid}], for any B, and returns scores [B]
and patch heat maps [B, {grid}, {grid}]. `run.py` has the preprocessing and needs no more than:

    pip install "jax>={jax}" numpy opencv-python-headless
    python run.py PICTURE...

JAX keeps such a program readable for six months of its releases at least.
""",
    "onnx": """
`model.onnx` takes `in_0`: pictures uint8 [B, {canvas}, {canvas}, 3], `in_1`: soft edge maps float32
[B, {grid}, {grid}] and `in_2`: valid patches bool [B, {grid}, {grid}], for any B, and returns
scores [B] and patch heat maps [B, {grid}, {grid}]. `run.py` has the preprocessing and needs no
more than:

    pip install onnxruntime numpy opencv-python-headless
    python run.py PICTURE...
""",
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
